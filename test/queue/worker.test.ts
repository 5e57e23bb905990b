import { expect, it, onTestFinished } from "vitest";
import { connect, migrate, type Worker } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { content, gate, stopped } from "./worker-support.ts";

const now = { retryPolicy: { strategy: "fixed", initialDelayMs: 0 } } as const;

eachDatabase("a worker", (database) => {
  it("runs as many handlers at once as it may, and never more", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 9 }, (_, n) => note(to, { n })));
    const open = gate();
    let most = 0;
    const order: unknown[] = [];
    const worker: Worker = queue.work(
      to,
      async (message) => {
        order.push(content(message).n);
        most = Math.max(most, worker.stats.active);
        await open.passed;
      },
      { concurrency: 3 },
    );
    await until(() => worker.stats.active === 3);
    // Nobody knows yet how long these take, so nothing is claimed ahead of them.
    expect(await queue.getQueueStats(to)).toMatchObject({ leased: 3, pending: 6 });
    open.pass();
    await until(() => worker.stats.processed === 9);
    expect(most).toBe(3);
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
    expect(worker.stats).toEqual({
      active: 0,
      waiting: 0,
      processed: 9,
      failed: 0,
      lost: 0,
      released: 0,
    });
    expect(await queue.getQueueStats(to)).toMatchObject({ leased: 0, pending: 0 });
  });

  it("claims and acknowledges in groups", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex, { notify: false });
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 400 }, (_, n) => note(to, { n })));
    let statements = 0;
    knex.on("query", () => statements++);
    const worker = queue.work(to, () => undefined, { concurrency: 20 });
    await until(() => worker.stats.processed === 400);
    // Far below the two statements per message of one by one; SQLite needs four for an acknowledgement.
    expect(statements).toBeLessThan(150);
  });

  it("does so where handlers wait for something short, too", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex, { notify: false });
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 5_000 }, (_, n) => note(to, { n })));
    let statements = 0;
    knex.on("query", () => statements++);
    const worker = queue.work(
      to,
      async () => {
        await undefined;
      },
      { concurrency: 50, batchSize: 500 },
    );
    await until(() => worker.stats.processed === 5_000);
    // As many at a time as at first, when nobody knows how long they take, would be hundreds on PostgreSQL as well.
    expect(statements).toBeLessThan(250);
  });

  it("tries a message again by its retry policy, then dead-letters it with the last error", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const begun: number[] = [];
    const told: unknown[] = [];
    const worker = queue.work(
      to,
      (message) => {
        begun.push(performance.now());
        throw new Error(`run ${message.attempt}`);
      },
      {
        // So long a pause between looks that only knowing of the retry can be in time.
        pollMs: { min: 20_000, max: 20_000 },
        retryPolicy: { strategy: "schedule", delaysMs: [100, 200], jitter: 0 },
        onError: (error, context) => told.push([(error as Error).message, context.during]),
      },
    );
    const dead = await until(() => queue.deadLetters.get(messageId));
    expect(dead).toMatchObject({ reason: "max_attempts", attempt: 3 });
    expect(dead.lastError).toMatchObject({ code: "Error", message: "run 3" });
    const [first = 0, second = 0, third = 0] = begun;
    expect(second - first).toBeGreaterThanOrEqual(99);
    expect(third - second).toBeGreaterThanOrEqual(199);
    expect(told).toEqual([1, 2, 3].map((run) => [`run ${run}`, "handle"]));
    await until(() => worker.stats.failed === 3);
    expect(worker.stats).toMatchObject({ processed: 0, failed: 3 });
    await until(() => named(messageId).includes("dead_lettered"));
    expect(named(messageId).filter((event) => event === "retried")).toHaveLength(2);
  });

  it("dead-letters at once what the handler says cannot succeed, and gives fewer runs if told so", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const rejected = await queue.sendMessage(note(to, { hopeless: true }));
    const tired = await queue.sendMessage(note(to));
    queue.work(
      to,
      (message) => {
        throw Object.assign(new Error("no"), { retryable: content(message).hopeless !== true });
      },
      { retryPolicy: { ...now.retryPolicy, maxAttempts: 2 } },
    );
    const dead = (id: string) => until(() => queue.deadLetters.get(id));
    expect(await dead(rejected.messageId)).toMatchObject({ reason: "rejected", attempt: 1 });
    expect(await dead(tired.messageId)).toMatchObject({ reason: "max_attempts", attempt: 2 });
  });

  it("leaves alone what the handler settles itself, even if it does not wait for it", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const names = ["ack", "nack", "defer", "bury", "unawaited", "then-throws"] as const;
    const sent = await queue.sendMessages(names.map((name) => note(to, { name })));
    const worker = queue.work(to, async (message) => {
      switch (content(message).name) {
        case "nack":
          await message.nack(new Error("later"), { delayMs: 60_000 });
          return;
        case "defer":
          await message.defer(60_000);
          return;
        case "bury":
          await message.deadLetter("unreadable");
          return;
        case "unawaited":
          void message.ack();
          return;
        default:
          await message.ack();
          if (content(message).name === "then-throws") throw new Error("after the end");
      }
    });
    await until(() => worker.stats.processed === names.length);
    const states = await Promise.all(sent.map(({ messageId }) => queue.getMessage(messageId)));
    expect(states.map((message) => [message?.state, message?.attempt])).toEqual([
      ["processed", 1],
      ["scheduled", 1],
      ["scheduled", 0],
      ["dead", 1],
      ["processed", 1],
      ["processed", 1],
    ]);
    expect(worker.stats).toMatchObject({ failed: 0, lost: 0 });
  });

  it("tries again what the handler acknowledged in a transaction that failed with it", async () => {
    const { queue, knex } = { ...watched(database.knex()), knex: database.knex() };
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const worker = queue.work(
      to,
      async (message) => {
        await knex.transaction(async (tx) => {
          await message.ack({ tx });
          if (message.attempt === 1) throw new Error("undone");
        });
      },
      now,
    );
    await until(() => worker.stats.processed === 1);
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed", attempt: 2 });
  });

  it("hears at once of what this process sends, however rarely it looks", TIMED, async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const worker = queue.work(to, () => undefined, { pollMs: { min: 20_000, max: 20_000 } });
    // After the first look has found nothing.
    await queue.sendMessage(note(to));
    await until(() => worker.stats.processed === 1, { timeoutMs: 5_000 });
    await queue.sendMessage(note(to));
    await until(() => worker.stats.processed === 2, { timeoutMs: 5_000 });
  });

  it("takes only the types it was asked to", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages([note(to), { ...note(to), messageType: "OTHER" }]);
    const seen: string[] = [];
    const worker = queue.work(to, (message) => void seen.push(message.messageType), {
      messageTypes: ["OTHER"],
    });
    await until(() => worker.stats.processed === 1);
    await worker.stop();
    expect(seen).toEqual(["OTHER"]);
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 1 });
  });

  it("gives back what it claimed ahead when a handler turns out slow", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 60 }, (_, n) => note(to, { n })));
    const open = gate();
    const slow = queue.work(to, (message) => (content(message).n === 20 ? open.passed : undefined));
    await until(() => slow.stats.active === 1 && slow.stats.waiting > 0);
    const other = queue.work(to, () => undefined, { workerId: "other" });
    await until(() => slow.stats.processed + other.stats.processed === 59);
    expect(slow.stats).toMatchObject({ active: 1, waiting: 0, lost: 0 });
    expect(slow.stats.released).toBeGreaterThan(0);
    open.pass();
    await until(() => slow.stats.processed + other.stats.processed === 60);
  });

  it("survives a database that refuses, tells of it, and goes on when it can", async () => {
    const { knex } = await database.unmigrated();
    const { queue } = watched(knex);
    const to = mailbox();
    const told: unknown[] = [];
    const worker = queue.work(to, () => undefined, {
      onError: (error, { during }) => {
        told.push([(error as { code?: string }).code, during]);
        throw new Error("a listener's own fault is not the worker's");
      },
    });
    await until(() => told.length > 1);
    expect(told[0]).toEqual(["NOT_MIGRATED", "claim"]);
    await migrate(knex);
    await queue.sendMessage(note(to));
    await until(() => worker.stats.processed === 1);
  });

  it("G13: refuses bad input with a typed error", async () => {
    const { queue } = watched(database.knex());
    const bad: [string, () => unknown][] = [
      ["agentId", () => queue.work("a b", () => undefined)],
      ["handler", () => queue.work("a", null as never)],
      ["concurrency", () => queue.work("a", () => undefined, { concurrency: 0 })],
      ["leaseMs", () => queue.work("a", () => undefined, { leaseMs: 1 })],
      ["pollMs", () => queue.work("a", () => undefined, { pollMs: { min: 9, max: 1 } })],
      ["concurency", () => queue.work("a", () => undefined, { concurency: 1 } as object)],
      ["onError", () => queue.work("a", () => undefined, { onError: "log" as never })],
    ];
    for (const [named, call] of bad) {
      const error = await failure(call);
      expect(error.code, named).toBe("VALIDATION_FAILED");
      expect(error.message).toContain(named);
    }
    const worker = queue.work(mailbox(), () => undefined);
    expect((await failure(() => worker.stop({ deadlineMs: -1 }))).code).toBe("VALIDATION_FAILED");
    await stopped(worker);
    const { knex } = connect(database.url());
    onTestFinished(() => knex.destroy());
    const closing = watched(knex).queue;
    await closing.close();
    expect((await failure(() => closing.work("a", () => undefined))).code).toBe("CLOSED");
  });
});
