import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { type CliOptions, runCli } from "./support.ts";

interface Line {
  message_id: string;
  outcome: string;
  attempt: number;
  error?: string;
  reply_id?: string;
}

eachDatabase("work", (database) => {
  const work = (agent: string, command: string, ...more: string[]) =>
    runCli(["work", agent, "--exec", command, "--json", ...more], { database: database.url() });
  const start = (agent: string, command: string, more: string[], options: CliOptions = {}) =>
    runCli(["work", agent, "--exec", command, ...more], { database: database.url(), ...options });

  it("gives the program the message on stdin and in its environment", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    const folder = await mkdtemp(join(tmpdir(), "outbox-work-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const { messageId } = await queue.sendMessage({
      toAgent: to,
      fromAgent: "boss",
      messageType: "greet",
      content: { name: "Ada" },
      correlationId: "c-1",
    });
    const { code, lines, err } = await work(
      to,
      `cat >${folder}/stdin; env | grep ^OUTBOX_ >${folder}/env; printf '%s' "$DATABASE_URL" >${folder}/url`,
      "--drain",
    );
    expect(code, err).toBe(0);
    expect(lines<Line>()).toMatchObject([{ message_id: messageId, outcome: "done", attempt: 1 }]);
    const [stdin, env, url] = await Promise.all(
      ["stdin", "env", "url"].map((name) => readFile(join(folder, name), "utf8")),
    );
    expect(JSON.parse(stdin ?? "")).toMatchObject({
      message_id: messageId,
      content: { name: "Ada" },
      attempt: 1,
    });
    expect(env?.split("\n")).toEqual(
      expect.arrayContaining([
        `OUTBOX_MESSAGE_ID=${messageId}`,
        "OUTBOX_MESSAGE_TYPE=greet",
        "OUTBOX_FROM_AGENT=boss",
        `OUTBOX_TO_AGENT=${to}`,
        "OUTBOX_ATTEMPT=1",
        "OUTBOX_MAX_ATTEMPTS=3",
        "OUTBOX_CORRELATION_ID=c-1",
      ]),
    );
    expect(url).toBe(database.url());
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed" });
  });

  it("answers with what the program wrote, once, and only to agents", async () => {
    const { queue } = watched(database.knex());
    const [to, boss] = [mailbox("work"), mailbox("boss")];
    const note = { toAgent: to, messageType: "ask", content: {} };
    const json = await queue.sendMessage({ ...note, fromAgent: boss, correlationId: "c-7" });
    await work(to, `echo '{"sum": 42}'`, "--drain");
    const text = await queue.sendMessage({ ...note, fromAgent: boss });
    await work(to, "echo forty-two", "--drain");
    const array = await queue.sendMessage({ ...note, fromAgent: "someone", replyTo: boss });
    await work(to, "echo '[1,2]'", "--drain");
    const answers = await queue.getMessages(boss);
    expect(answers).toMatchObject([
      { content: { sum: 42 }, correlationId: "c-7", causationId: json.messageId, fromAgent: to },
      { content: { output: "forty-two" }, causationId: text.messageId },
      { content: [1, 2], causationId: array.messageId },
    ]);
    for (const [message, more] of [
      [{ ...note, fromAgent: boss }, ["--no-reply"]],
      // Nobody to answer to.
      [note, []],
      // An answer to an answer would be answered in turn.
      [{ ...note, messageType: "RESPONSE", fromAgent: boss }, []],
    ] as const) {
      const { messageId } = await queue.sendMessage(message);
      const { lines } = await work(to, "echo hello", "--drain", ...more);
      expect(lines<Line>()).toMatchObject([{ message_id: messageId, outcome: "done" }]);
      expect(lines<Line>()[0]).not.toHaveProperty("reply_id");
    }
    await queue.sendMessage({ ...note, fromAgent: boss });
    await work(to, "true", "--drain");
    expect(await queue.getMessages(boss)).toEqual([]);
  });

  it("tries again what failed, with the end of stderr as the error", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    const { messageId } = await queue.sendMessage({ toAgent: to, messageType: "t", content: {} });
    const later = { initialDelayMs: 60_000, maxDelayMs: 60_000 };
    await queue.mailboxes.set(to, { retryPolicy: later });
    const failing = await work(to, "echo first >&2; echo no such customer >&2; exit 3", "--once");
    expect(failing.code).toBe(0);
    expect(failing.lines<Line>()).toMatchObject([{ outcome: "failed", attempt: 1 }]);
    expect(failing.err).toContain("no such customer");
    expect(await queue.getMessage(messageId)).toMatchObject({
      state: "scheduled",
      attempt: 1,
      lastError: { code: "EXIT_3", message: "first\nno such customer" },
    });
    const silent = await queue.sendMessage({ toAgent: to, messageType: "t2", content: {} });
    await work(to, "kill -9 $$", "--once", "--types", "t2");
    expect(await queue.getMessage(silent.messageId)).toMatchObject({
      lastError: { code: "SIGKILL", message: "ended by SIGKILL" },
    });
  });

  it("defers at exit code 75 without counting the run, and dead-letters at 65", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    const later = await queue.sendMessage({ toAgent: to, messageType: "later", content: {} });
    const bad = await queue.sendMessage({ toAgent: to, messageType: "bad", content: {} });
    const { lines } = await work(
      to,
      `[ "$OUTBOX_MESSAGE_TYPE" = later ] && exit 75; echo unreadable >&2; exit 65`,
      "--drain",
      "--defer-ms",
      "60000",
    );
    expect(lines<Line>()).toMatchObject([
      { message_id: later.messageId, outcome: "deferred" },
      { message_id: bad.messageId, outcome: "dead_lettered", error: "unreadable" },
    ]);
    expect(await queue.getMessage(later.messageId)).toMatchObject({
      state: "scheduled",
      attempt: 0,
    });
    expect(await queue.deadLetters.get(bad.messageId)).toMatchObject({
      reason: "rejected",
      lastError: { code: "EXIT_65", message: "unreadable" },
    });
  });

  it("ends a program that runs too long, with all that it started", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    const { messageId } = await queue.sendMessage({ toAgent: to, messageType: "t", content: {} });
    const since = performance.now();
    await work(to, "sleep 60 & sleep 60; wait", "--once", "--timeout-ms", "300");
    expect(performance.now() - since).toBeLessThan(10_000);
    expect(await queue.getMessage(messageId)).toMatchObject({ lastError: { code: "TIMEOUT" } });
  });

  it("works several at once, only the types asked for, and ends when nothing is ready", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    await queue.sendMessages(
      Array.from({ length: 8 }, () => ({ toAgent: to, messageType: "wanted", content: {} })),
    );
    await queue.sendMessage({ toAgent: to, messageType: "other", content: {} });
    const { lines, err } = await work(
      to,
      "sleep 0.2",
      "--drain",
      "--concurrency",
      "4",
      "--types",
      "wanted",
    );
    expect(
      lines<Line>().map(({ outcome }) => outcome),
      err,
    ).toEqual(Array(8).fill("done"));
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 1, leased: 0 });
    const once = await work(to, "true", "--once");
    expect(once.lines()).toHaveLength(1);
    const none = await start(to, "true", ["--once"]);
    expect(none).toMatchObject({ code: 0, out: "Nothing to do.\n" });
  });

  it("keeps the lease of a long program alive, and stops within its deadline", TIMED, async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    const { messageId } = await queue.sendMessage({ toAgent: to, messageType: "t", content: {} });
    const stop = new AbortController();
    const working = start(to, "sleep 60", ["--lease-ms", "3000", "--stop-ms", "500", "--json"], {
      signal: stop.signal,
    });
    await until(async () => (await queue.getMessage(messageId))?.state === "leased");
    const { visibleAt } = (await queue.getMessage(messageId)) ?? {};
    await until(
      async () => ((await queue.getMessage(messageId))?.visibleAt ?? 0) > (visibleAt ?? 0) + 300,
    );
    const since = performance.now();
    stop.abort("SIGINT");
    const { code, lines, err } = await working;
    expect(code).toBe(130);
    expect(err).toContain("Stopping: 1 program may go on");
    expect(performance.now() - since).toBeLessThan(3_000);
    // Given back as if it had never been run.
    expect(lines<Line>()).toMatchObject([{ outcome: "given_back" }]);
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "ready", attempt: 0 });
  });

  it("lets a program finish after Ctrl-C, and takes no further message", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    const note = { toAgent: to, messageType: "t", content: {} };
    const [first] = await queue.sendMessages([note, note]);
    const stop = new AbortController();
    const working = start(to, "sleep 3", ["--json"], { signal: stop.signal });
    await until(async () => (await queue.getMessage(first?.messageId ?? ""))?.state === "leased");
    stop.abort("SIGTERM");
    const { code, lines } = await working;
    expect(code).toBe(0);
    expect(lines<Line>()).toMatchObject([{ outcome: "done" }]);
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 1, leased: 0 });
  });

  it("shows a status line to a person, and lines otherwise", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    const note = { toAgent: to, messageType: "t", content: {} };
    await queue.sendMessages([note, note]);
    const terminal = await start(to, "sleep 0.3", ["--drain"], { columns: 80 });
    expect(terminal.err).toMatch(/1 running, 1 done/);
    expect(terminal.out).not.toContain("✓");
    expect(terminal.out).toMatch(/Ended: 2 done\.\n$/);
    await queue.sendMessage(note);
    const pipe = await start(to, "true", ["--drain"]);
    expect(pipe.out).toMatch(/^✓ \S+ {2}t {2}done in \d+ ms\nEnded: 1 done\.\n$/);
    expect(pipe.err).toBe("");
  });
});
