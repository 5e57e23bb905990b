import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, mailbox } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { type CliOptions, runCli } from "./support.ts";

interface Claim {
  message_id: string;
  receipt: number;
  content: unknown;
}

eachDatabase("the command line's messages", (database) => {
  const cli = (argv: readonly string[], options: CliOptions = {}) =>
    runCli(argv, { database: database.url(), ...options });

  const send = async (to: string, ...more: string[]) => {
    const { code, out, err } = await cli(["send", to, "--type", "greet", "--quiet", ...more]);
    expect(code, err).toBe(0);
    return out.trim();
  };

  const claim = async (to: string) =>
    (await cli(["receive", to, "--json"])).lines<Claim>()[0] as Claim;

  it("are sent, received and finished", async () => {
    const to = mailbox("cli");
    const sent = await cli(["send", to, "-t", "greet", "-c", '{"name":"Ada"}', "--from", "boss"]);
    expect(sent).toMatchObject({ code: 0, err: "" });
    const id = /^Sent (\S+) to /.exec(sent.out)?.[1] ?? "";
    const received = await cli(["receive", to]);
    expect(received.out).toContain(id);
    expect(received.out).toContain('"name": "Ada"');
    expect(received.out).toMatch(/from boss, run 1 of 3, receipt 1/);
    expect(received.out).toContain(`ack ID --agent ${to}`);
    const empty = await cli(["receive", to]);
    expect(empty).toMatchObject({ code: 0, out: `No message for ${to}.\n` });
    const acked = await cli(["ack", id, "--agent", to, "--receipt", "1"]);
    expect(acked).toMatchObject({ code: 0, out: `Finished ${id}.\n` });
    const twice = await cli(["ack", id, "--agent", to]);
    expect(twice.code).toBe(1);
    expect(twice.err).toContain(`${to} does not hold message ${id} (it is processed)`);
    expect((await cli(["ack", "never-seen", "--agent", to])).code).toBe(4);
  });

  it("carry everything that send can say, and JSON is snake_case", async () => {
    const to = mailbox("cli");
    const { code, err } = await cli(
      ["send", to, "--type", "task_request", "--content", "-", "--from", "boss", "--id", `${to}-1`]
        .concat(["--priority", "HIGH", "--ttl-ms", "60000", "--max-attempts", "5"])
        .concat(["--reply-to", "desk", "--correlation-id", "c-1", "--context-id", "x-1"])
        .concat(["--task-id", "t-1", "--subject", "Hello, you", "--header", "a=1,2"])
        .concat(["--header", "b=x=y", "--dedupe-key", "k", "--json"]),
      { input: '{"camelCase": true}' },
    );
    expect(code, err).toBe(0);
    const [message] = (await cli(["receive", to, "--json"])).lines();
    expect(message).toMatchObject({
      message_id: `${to}-1`,
      message_type: "TASK_ASSIGNMENT",
      original_type: "task_request",
      from_agent: "boss",
      reply_to: "desk",
      priority: "HIGH",
      content: { camelCase: true },
      headers: { a: "1,2", b: "x=y" },
      correlation_id: "c-1",
      context_id: "x-1",
      task_id: "t-1",
      subject: "Hello, you",
      attempt: 1,
      max_attempts: 5,
      receipt: 1,
    });
    const numeric = mailbox("cli");
    await send(numeric, "--priority", "7");
    expect((await cli(["receive", numeric, "--json"])).lines()[0]).toMatchObject({ priority: "7" });
  });

  it("are stored once for one id", async () => {
    const to = mailbox("cli");
    const first = await cli(["send", to, "-t", "greet", "--id", `${to}-x`, "--json"]);
    expect(first.json()).toEqual({ message_id: `${to}-x`, duplicate: false });
    const second = await cli(["send", to, "-t", "greet", "--id", `${to}-x`]);
    expect(second).toMatchObject({ code: 0, out: expect.stringContaining("Stored before as") });
  });

  it("go to several mailboxes, are filtered by type, limited, and acked at once", async () => {
    const [a, b] = [mailbox("cli"), mailbox("cli")];
    await cli(["send", a, b, "--type", "one"]);
    await cli(["send", a, "--type", "two"]);
    await cli(["send", a, "--type", "three"]);
    const some = await cli(["receive", a, "--types", "two,three", "-n", "1", "--ack", "--json"]);
    expect(some.lines().map((line) => line.message_type)).toEqual(["two"]);
    const stats = (await cli(["stats", a, "--json"])).json();
    expect(stats).toMatchObject({ pending: 2, leased: 0, paused: false });
    expect((await cli(["receive", b, "--json"])).lines()).toHaveLength(1);
  });

  it("are given back as failed, or dead-lettered", TIMED, async () => {
    const to = mailbox("cli");
    const id = await send(to);
    const { receipt } = await claim(to);
    const stale = await cli(["nack", id, "-a", to, "-e", "late", "--receipt", String(receipt + 1)]);
    expect(stale).toMatchObject({ code: 1, err: expect.stringContaining("nothing was changed") });
    const back = await cli([
      "nack",
      id,
      "-a",
      to,
      "-e",
      "no luck",
      "--delay-ms",
      "60000",
      "--json",
    ]);
    expect(back.json()).toEqual({ message_id: id, outcome: "retried" });
    const why = await cli(["why", id]);
    expect(why.code).toBe(0);
    expect(why.out).toMatch(/state +scheduled/);
    expect(why.out).toContain("no luck");
    expect(why.out).toMatch(/until +in (59 s|1 min)/);
    await elapse(database.knex(), 120_000, id);
    await claim(to);
    const dead = await cli(["nack", id, "-a", to, "-e", "never", "--dead"]);
    expect(dead.out).toBe(`${id} went to the dead letters.\n`);
    expect((await cli(["nack", id, "-a", to, "-e", "x"])).code).toBe(1);
    expect((await cli(["nack", "never-seen", "-a", to, "-e", "x"])).code).toBe(4);
    expect((await cli(["why", id, "--json"])).json<unknown[]>()).toMatchObject([
      { message_id: id, to_agent: to, state: "dead" },
    ]);
    expect((await cli(["why", "never-seen"])).code).toBe(4);
  });

  it("that are dead are listed, shown, redriven and purged", async () => {
    const to = mailbox("cli");
    const ids = [];
    for (let n = 0; n < 3; n++) {
      ids.push(await send(to, "-c", `{"n":${n}}`, "--from", "boss"));
      await claim(to);
      await cli(["nack", ids[n] ?? "", "-a", to, "-e", "\u001b[31mbroken", "--dead"]);
    }
    const list = await cli(["dlq", "ls", "--agent", to]);
    expect(list.out.split("\n")[0]).toMatch(/^MESSAGE +MAILBOX +TYPE +REASON +RUNS +FAILED/);
    expect(list.out).not.toContain("\u001b");
    const json = (await cli(["dlq", "ls", "--agent", to, "--json"])).json<{ sequence: number }[]>();
    expect(json).toMatchObject(
      ids.map((id) => ({ message_id: id, reason: "rejected", last_error: { code: "Reported" } })),
    );
    const page = await cli([
      "dlq",
      "ls",
      "--agent",
      to,
      "-n",
      "1",
      "--after",
      String(json[0]?.sequence),
    ]);
    expect(page.out).toContain(ids[1]);
    expect(page.out).toContain("There may be more: --after");
    const show = await cli(["dlq", "show", ids[0] ?? ""]);
    expect(show.out).toMatch(/reason +rejected/);
    expect(show.out).toContain('"n": 0');
    expect((await cli(["dlq", "show", "never-seen"])).code).toBe(4);
    expect((await cli(["dlq", "redrive", ids[0] ?? "", "--json"])).json()).toMatchObject({
      redriven: 1,
      message_ids: [ids[0]],
    });
    expect((await cli(["dlq", "redrive", "never-seen"])).code).toBe(4);
    expect((await cli(["dlq", "purge", ids[1] ?? ""])).out).toBe("Deleted 1 dead letter.\n");
    expect((await cli(["dlq", "purge", "never-seen"])).code).toBe(4);
    const other = mailbox("cli");
    const moved = await cli(["dlq", "redrive", "--agent", to, "--to", other]);
    expect(moved.out).toBe("Sent 1 dead letter again.\n");
    expect((await claim(other)).content).toEqual({ n: 2 });
    expect((await cli(["dlq", "ls", "--agent", to])).out).toBe("No dead letters.\n");
  });

  it("of a paused mailbox wait until it is resumed", async () => {
    const to = mailbox("cli");
    const id = await send(to);
    expect((await cli(["pause", to, "--reason", "holidays"])).code).toBe(0);
    expect((await cli(["receive", to])).out).toContain("No message");
    expect((await cli(["why", id])).out).toContain("holidays");
    expect((await cli(["stats", to])).out).toContain("paused");
    expect((await cli(["resume", to])).out).toBe(`Resumed ${to}.\n`);
    expect((await cli(["resume", to, "--json"])).json()).toMatchObject({ was_paused: false });
    expect(await claim(to)).toMatchObject({ message_id: id });
  });

  it("are counted once, or again and again until Ctrl-C", async () => {
    const to = mailbox("cli");
    await send(to);
    const once = await cli(["stats"]);
    expect(once.out).toMatch(/^All mailboxes\npending +\d+/);
    expect(once.out).toMatch(/Agents\nregistered +\d+/);
    expect((await cli(["stats", "--json"])).json()).toHaveProperty("agents.total_agents");
    for (const mode of [{}, { columns: 80 }, { json: true }]) {
      const stop = new AbortController();
      const onOutput = (out: string) => {
        if ((out.match(/pending/g) ?? []).length === 2) stop.abort("SIGINT");
      };
      const argv = ["stats", to, "--watch", "--interval-ms", "100"];
      const { json, ...terminal } = { json: false, ...mode };
      const watched = await cli(json ? [...argv, "--json"] : argv, {
        ...terminal,
        onOutput,
        signal: stop.signal,
      });
      expect(watched.code).toBe(130);
      if (json) {
        expect(watched.lines()).toHaveLength(2);
        expect(watched.lines()[0]).toMatchObject({ pending: 1, oldest_age_ms: expect.any(Number) });
      }
    }
  });
});
