import { expect, it } from "vitest";
import { bulkDead, deadIds, deadWith, liveIds } from "../queue/dead-letters-support.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { type CliOptions, runCli, spawnCli } from "./support.ts";

eachDatabase("dlq", (database) => {
  const cli = (argv: readonly string[], options: CliOptions = {}) =>
    runCli(["dlq", ...argv], { database: database.url(), ...options });

  it("groups by cause, in a table and in JSON", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("dlq");
    for (const n of [1, 2, 3]) await deadWith(queue, to, new Error(`no row ${n}`));
    await deadWith(queue, to, new TypeError("\u001b[31mred"));
    const { out } = await cli(["groups", "--agent", to]);
    const lines = out.split("\n");
    expect(lines[0]).toMatch(/^CAUSE +COUNT +REASON +TYPE +MAILBOXES +FIRST +LAST +ERROR$/);
    expect(lines[1]).toMatch(new RegExp(` 3 +rejected +NOTE +${to} +.*no row 3$`, "i"));
    expect(out).not.toContain("\u001b");
    const json = (await cli(["groups", "--agent", to, "--json"])).json<{ groups: object[] }>();
    expect(json).toMatchObject({
      capped: false,
      groups: [
        { count: 3, error_message: "no row 3", mailboxes: [{ agent_id: to, count: 3 }] },
        { count: 1, error_code: "TypeError" },
      ],
    });
    expect((await cli(["groups", "--agent", "nobody"])).out).toBe("No dead letters.\n");
  });

  it("finds by error, code, sender and instants", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("dlq");
    const ids = [
      await deadWith(queue, to, new Error("Connection refused by host"), { fromAgent: "ada" }),
      await deadWith(queue, to, new RangeError("too far")),
    ];
    const found = async (...argv: string[]) =>
      (await cli(["ls", "--agent", to, "--json", ...argv]))
        .json<{ message_id: string }[]>()
        .map(({ message_id }) => message_id);
    expect(await found("--error", "connection REFUSED")).toEqual([ids[0]]);
    expect(await found("--error-code", "RangeError")).toEqual([ids[1]]);
    expect(await found("--from", "ada")).toEqual([ids[0]]);
    expect(await found("--since", "2000-01-01", "--sent-since", "2000-01-01")).toEqual(ids);
    expect(await found("--before", "2000-01-01")).toEqual([]);
    expect(await found("--sent-before", "2000-01-01")).toEqual([]);
    expect((await cli(["ls", "--since", "yesterday"])).code).toBe(2);
  });

  it("shows the reason's meaning, the first mailbox and the failed runs", async () => {
    const { queue } = watched(database.knex());
    const [to, other] = [mailbox("dlq"), mailbox("dlq")];
    const id = await deadWith(queue, to, new Error("first"), { reason: "schema" });
    await cli(["redrive", id, "--to", other]);
    const [claim] = await queue.getMessages(other);
    await claim?.deadLetter("schema", { error: new Error("again") });
    const failures = [
      {
        attempt: 1,
        at: 1_700_000_000_000,
        worker: "w-1",
        durationMs: 1_200,
        error: { code: "E", message: "boom" },
      },
    ];
    await database
      .knex()("outbox_dead_letters")
      .where({ message_id: id })
      .update({ failures: JSON.stringify(failures) });
    const { out } = await cli(["show", id]);
    expect(out).toMatch(/reason +schema: its content is not what its type promises/);
    expect(out).toMatch(new RegExp(`first sent to +${to}`));
    expect(out).toMatch(/RUN +ENDED +TOOK +WORKER +CODE +ERROR\n +1 +\d+ d ago +1 s +w-1 +E +boom/);
    expect(out).toContain('"x-original-agent"');
    expect((await cli(["show", id, "--json"])).json()).toMatchObject({
      original_agent: to,
      last_attempt_at: "2023-11-14T22:13:20.000Z",
      failures: [{ attempt: 1, at: "2023-11-14T22:13:20.000Z", duration_ms: 1_200 }],
    });
  });

  it("edits, and sends again in the same step", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("dlq");
    const id = await deadWith(queue, to, new Error("no total"));
    const edited = await cli(["edit", id, "-c", '{"total":17}', "--header", "k=v", "--by", "ada"]);
    expect(edited.out).toBe(`Corrected ${id}. To send it again: agent-outbox dlq redrive ${id}\n`);
    const replayed = await cli(
      ["edit", id, "--priority", "HIGH", "--drop-header", "k", "--replay"],
      {
        env: { USER: "grace" },
      },
    );
    expect(replayed.out).toBe(`Corrected ${id} and sent it again.\n`);
    const [claim] = await queue.getMessages(to);
    expect(claim).toMatchObject({ content: { total: 17 }, priority: 30 });
    expect(claim?.headers).toEqual({
      "x-edited-at": expect.stringMatching(/^\d{4}-.*Z$/),
      "x-edited-by": "grace",
    });
    const late = await cli(["edit", id, "--priority", "LOW"]);
    expect(late).toMatchObject({ code: 4, err: expect.stringContaining("redriven or discarded") });
    expect((await cli(["edit", id, "--priority", "soon"])).code).toBe(2);
  });

  it("redrives with a rate, and tells what a dry run would do", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("dlq");
    const ids = await bulkDead(queue, database, to, 12);
    const dry = await cli(["redrive", "--agent", to, "--dry-run"]);
    expect(dry.out).toContain("… and 2 more");
    expect(dry.out).toContain("12 dead letters would be sent again; nothing was changed.");
    expect(await deadIds(database.knex(), to)).toEqual(ids);
    const { out } = await cli(["redrive", "--agent", to, "--rate", "1", "-n", "11"]);
    expect(out).toBe(
      "Sent 11 dead letters again.\nThe last becomes ready in 10 s.\nThere may be more: run it again, or raise --limit.\n",
    );
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 1, scheduled: 10, dead: 1 });
    expect((await cli(["redrive", "--agent", to, "--rate", "0"])).code).toBe(2);
  });

  it("discards by filter; a dry run changes nothing, and `purge` is the same", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("dlq");
    await bulkDead(queue, database, to, 3);
    await deadWith(queue, to, new Error("kept"));
    const dry = await cli(["discard", "--agent", to, "--reason", "expired", "--dry-run", "--json"]);
    expect(dry.json()).toMatchObject({ dry_run: true, matched: 3, discarded: 0 });
    const some = await cli(["discard", "--agent", to, "--reason", "expired", "-n", "2"]);
    expect(some.out).toContain("Deleted 2 dead letters.\n");
    expect((await cli(["purge", "--agent", to, "--reason", "expired"])).out).toBe(
      "Deleted 1 dead letter.\n",
    );
    expect(await deadIds(database.knex(), to)).toHaveLength(1);
    expect((await cli(["discard", "never-seen"])).code).toBe(4);
  });

  it("draws a bar where a person watches", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("dlq");
    await bulkDead(queue, database, to, 250);
    const { out, err } = await cli(["redrive", "--agent", to], { columns: 100 });
    expect(err).toMatch(/█+░* 100 of 250 dead letters/);
    expect(err).toContain("250 of 250");
    expect(out).toBe("Sent 250 dead letters again.\n");
  });

  it(
    "Ctrl-C in the middle leaves each message in one place, and says how far it came",
    TIMED,
    async () => {
      const { queue } = watched(database.knex());
      const to = mailbox("dlq");
      const ids = await bulkDead(queue, database, to, 4_000);
      const argv = ["dlq", "redrive", "--agent", to, "--limit", "5000"];
      const child = spawnCli(argv, { database: database.url() });
      await until(async () => (await liveIds(database.knex(), to)).length > 0, { everyMs: 5 });
      child.child.kill("SIGINT");
      expect((await child.exited).code).toBe(130);
      const live = await liveIds(database.knex(), to);
      expect(child.out()).toBe(
        `Sent ${live.length} dead letters again.\nStopped: the rest are dead letters still.\n`,
      );
      const dead = await deadIds(database.knex(), to);
      expect(dead.length).toBeGreaterThan(0);
      expect([...live, ...dead].sort()).toEqual([...ids].sort());
    },
  );
});
