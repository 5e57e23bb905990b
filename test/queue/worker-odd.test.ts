import { expect, it, onTestFinished, vi } from "vitest";
import { errorRecord } from "../../lib/errors.ts";
import { MessageStore } from "../../lib/store/messages.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, mailbox, note, watched } from "../support/queue.ts";
import { content } from "./worker-support.ts";

const thrower = () => {
  throw new Error("reading this throws");
};

/** What a handler may throw, and nobody expects. */
const ODD: Readonly<Record<string, () => unknown>> = {
  "object message": () => Object.assign(new Error("x"), { message: { detail: 1 } }),
  "numeric stack": () => Object.assign(new Error("x"), { stack: 7 }),
  "array stack": () => Object.assign(new Error("x"), { stack: ["a", "b"] }),
  "symbol name": () => Object.assign(new Error("x"), { name: Symbol("n"), code: 7 }),
  "throwing fields": () => {
    const error = new Error("x");
    for (const name of ["stack", "message", "code", "retryable", "name"]) {
      Object.defineProperty(error, name, { get: thrower });
    }
    return error;
  },
  "proxied error": () => new Proxy(new Error("x"), { get: thrower, getPrototypeOf: thrower }),
  "throwing proxy": () => new Proxy({}, { get: thrower }),
  "revoked proxy": () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  },
  "no prototype": () => Object.assign(Object.create(null), { n: 1n }),
  symbol: () => Symbol("s"),
  undefined: () => undefined,
};

it.each(Object.keys(ODD))("makes a record of text only from an odd error: %s", (name) => {
  const record = errorRecord(ODD[name]?.());
  expect(typeof record.code).toBe("string");
  expect(record.code).not.toBe("");
  expect(typeof record.message).toBe("string");
  expect(["string", "undefined"]).toContain(typeof record.stack);
});

eachDatabase("a worker whose handler does odd things", (database) => {
  it("survives whatever is thrown, and tries the message again", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const names = Object.keys(ODD);
    const sent = await queue.sendMessages(
      names.map((name) => ({ ...note(to, { name }), maxAttempts: 2 })),
    );
    const worker = queue.work(
      to,
      (message) => {
        throw ODD[String(content(message).name)]?.();
      },
      { concurrency: 4, retryPolicy: { strategy: "fixed", initialDelayMs: 0, jitter: 0 } },
    );
    for (const { messageId } of sent) {
      const dead = await until(() => queue.deadLetters.get(messageId));
      expect(dead).toMatchObject({ reason: "max_attempts", attempt: 2 });
      expect(typeof dead.lastError?.message).toBe("string");
    }
    await until(() => worker.stats.failed === 2 * names.length);
    expect(worker.stats).toMatchObject({ failed: 2 * names.length, lost: 0 });
  });

  it("acknowledges what the handler acknowledged in a transaction that was undone, if it returns", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const sent = await queue.sendMessages([note(to, { undo: true }), note(to, { undo: false })]);
    const worker = queue.work(to, async (message) => {
      const own = database.knex().transaction(async (tx) => {
        await message.ack({ tx });
        if (content(message).undo) throw new Error("undone");
      });
      await own.catch(() => undefined);
    });
    await until(() => worker.stats.processed === 2);
    for (const { messageId } of sent) {
      expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed", attempt: 1 });
    }
    expect(worker.stats).toMatchObject({ failed: 0, lost: 0 });
  });

  it("leaves a message that a committed transaction deferred where that put it", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const worker = queue.work(to, async (message) => {
      await database.knex().transaction((tx) => message.defer(60_000, { tx }));
    });
    await until(() => worker.stats.processed === 1);
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "scheduled", attempt: 0 });
  });

  it.each(["commit", "rollback"] as const)(
    "fails a run whose context.tx does its own %s",
    async (end) => {
      const { queue } = watched(database.knex());
      const to = mailbox();
      const { messageId } = await queue.sendMessage(note(to));
      const told: unknown[] = [];
      const worker = queue.work(
        to,
        async (message, context) => {
          await context.tx(async (tx) => {
            await tx.raw("SELECT 1");
            if (message.attempt === 1) await tx[end]();
          });
        },
        {
          retryPolicy: { strategy: "fixed", initialDelayMs: 0, jitter: 0 },
          onError: (error) => told.push((error as { code?: unknown }).code),
        },
      );
      await until(() => worker.stats.processed === 1);
      expect(worker.stats).toMatchObject({ failed: 1, lost: 0 });
      expect(told).toEqual(["VALIDATION_FAILED"]);
      expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed", attempt: 2 });
    },
  );

  it("lets a context be taken apart, copied and added to", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const seen: unknown[] = [];
    await queue.sendMessage(note(to, { n: 1 }));
    const worker = queue.work(to, async (message, context) => {
      const copy = { ...context, more: 1 };
      const added = Object.assign(context, { more: 2 });
      seen.push(copy, Object.keys(context), "tx" in context, { ...added }.more);
      seen.push(copy.signal === context.signal, copy.idempotencyKey === message.idempotencyKey);
      const { tx, progress } = copy;
      await progress({ half: true });
      await tx(() => undefined);
    });
    await until(() => worker.stats.processed === 1);
    expect(seen.slice(1)).toEqual([
      ["idempotencyKey", "signal", "tx", "progress", "more"],
      true,
      2,
      true,
      true,
    ]);
  });

  it("G9: starts nothing that expired while it waited in the worker's hands", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const sent = await queue.sendMessages(
      Array.from({ length: 40 }, (_, n) => ({ ...note(to, { n }), ...(n > 20 && { ttlMs: 700 }) })),
    );
    const expireBy = performance.now() + 750;
    const seen: unknown[] = [];
    const worker = queue.work(to, async (message) => {
      seen.push(content(message).n);
      if (content(message).n !== 20) return;
      // Shorter than what was claimed ahead is kept.
      await new Promise((resolve) => setTimeout(resolve, expireBy - performance.now()));
    });
    for (const { messageId } of sent.slice(21)) {
      const dead = await until(() => queue.deadLetters.get(messageId));
      expect(dead).toMatchObject({ reason: "expired", attempt: 0 });
    }
    expect(seen).toHaveLength(21);
    await until(() => worker.stats.processed === 21);
    expect(worker.stats).toMatchObject({ processed: 21, failed: 0, lost: 0 });
  });

  it("starts what has time to live left, and at once", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 20 }, () => ({ ...note(to), ttlMs: 60_000 })));
    const worker = queue.work(to, () => undefined, { concurrency: 5 });
    await until(() => worker.stats.processed === 20);
    expect(worker.stats.released).toBe(0);
  });
});

eachDatabase("claiming from behind what has expired", (database) => {
  it("finds a live message behind a long backlog in one call, and tells of what it met", async () => {
    const { queue, events } = watched(database.knex());
    const to = mailbox();
    for (const count of [25, 2_000]) {
      for (let n = 0; n < count; n += 500) {
        const some = Array.from({ length: Math.min(500, count - n) }, () => note(to));
        await queue.sendMessages(some.map((message) => ({ ...message, ttlMs: 60_000 })));
      }
      await elapse(database.knex(), 60_001);
      const { messageId } = await queue.sendMessage(note(to));
      const got = await queue.getMessages(to, { limit: 1 });
      expect(got.map((message) => message.messageId)).toEqual([messageId]);
      await got[0]?.ack();
    }
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 0, leased: 0 });
    await until(() => events.some((told) => told.type === "message" && told.event === "expired"));
  });

  it("answers in order also after several rounds", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages([
      { ...note(to), priority: 90, ttlMs: 60_000 },
      { ...note(to, { n: "low" }), priority: 10 },
    ]);
    await elapse(database.knex(), 60_001);
    // Between the rounds of the claim, as another process would.
    const late = queue.sendMessage.bind(queue, { ...note(to, { n: "high" }), priority: 50 });
    const bury = vi.spyOn(MessageStore.prototype, "tryBury").mockImplementationOnce(async function (
      this: MessageStore,
      ...given
    ) {
      await late();
      return this.tryBury(...given);
    });
    onTestFinished(() => bury.mockRestore());
    const got = await queue.getMessages(to, { limit: 3 });
    expect(got.map((message) => content(message).n)).toEqual(["high", "low"]);
  });
});
