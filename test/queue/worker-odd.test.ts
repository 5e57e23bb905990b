import { expect, it } from "vitest";
import { errorRecord } from "../../lib/errors.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";
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
    expect(worker.stats).toMatchObject({ failed: 2 * names.length, lost: 0 });
  });
});
