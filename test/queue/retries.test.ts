import { expect, it } from "vitest";
import {
  type ClaimedMessage,
  type MessageQueueManager,
  RateLimited,
  RETRY_POLICIES,
  type RetryPolicyName,
  ServiceUnavailable,
} from "../../lib/index.ts";
import { runCli } from "../cli/support.ts";
import { eachDatabase, type TestDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";

const named = (retryPolicy: string) => Object.assign(new Error(retryPolicy), { retryPolicy });

/** The one message of a mailbox that can be claimed. */
async function claimed(queue: MessageQueueManager, agentId: string): Promise<ClaimedMessage> {
  const [claim] = await queue.getMessages(agentId);
  if (claim === undefined) throw new Error(`nothing to claim in ${agentId}`);
  return claim;
}

/** Fails the message again and again, until it is dead; returns the pauses in between, by the database's clock. */
async function failAll(
  database: TestDatabase,
  queue: MessageQueueManager,
  to: string,
  error: (attempt: number) => unknown,
): Promise<number[]> {
  const pauses: number[] = [];
  for (let run = 1; run <= 50; run++) {
    const claim = await claimed(queue, to);
    expect(claim.attempt).toBe(run);
    if ((await claim.nack(error(run))) === "dead_lettered") return pauses;
    const stored = await queue.getMessage(claim.messageId);
    const pause = Number(stored?.visibleAt) - Number(stored?.failures.at(-1)?.at);
    pauses.push(pause);
    await elapse(database.knex(), pause + 1, claim.messageId);
  }
  throw new Error("it has fifty runs");
}

eachDatabase("retry policies", (database) => {
  it.each(Object.keys(RETRY_POLICIES) as RetryPolicyName[])(
    "an error of class %s gets its runs and its pauses, more or fewer than the queue's",
    async (name) => {
      for (const maxAttempts of [2, 9]) {
        const { queue } = watched(database.knex(), { retryPolicy: { maxAttempts } });
        const to = mailbox();
        const { messageId } = await queue.sendMessage(note(to));
        const pauses = await failAll(database, queue, to, () => named(name));
        const policy = RETRY_POLICIES[name];
        expect(pauses).toHaveLength(policy.maxAttempts - 1);
        for (const [n, pause] of pauses.entries()) {
          const most = Number(policy.delaysMs?.[n]);
          expect(pause).toBeLessThanOrEqual(most);
          expect(pause).toBeGreaterThanOrEqual(most * (1 - policy.jitter));
        }
        expect(await queue.deadLetters.get(messageId)).toMatchObject({
          reason: "max_attempts",
          attempt: policy.maxAttempts,
        });
      }
    },
  );

  it("the class of the error comes first, then message, handler, mailbox, queue", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex, {
      retryPolicy: { delaysMs: [50_000], jitter: 0 },
      retryPolicies: { own_class: { delaysMs: [11_000], jitter: 0 }, E_MAPPED: "own_class" },
    });
    const [plain, set] = [mailbox(), mailbox()];
    await queue.mailboxes.set(set, { retryPolicy: { delaysMs: [40_000], jitter: 0 } });
    const message = { retry: { delaysMs: [20_000], jitter: 0 } };
    const handler = { retryPolicy: { delaysMs: [30_000], jitter: 0 } };
    const table = [
      // A class, for each who knows of it.
      [set, message, handler, { retryPolicy: "own_class" }, 11_000],
      [set, message, handler, { code: "E_MAPPED" }, 11_000],
      [set, message, handler, { status: 503 }, 10_000],
      [
        set,
        message,
        { retryPolicies: { service_unavailable: { delaysMs: [12_000], jitter: 0 } } },
        { status: 503 },
        12_000,
      ],
      // None.
      [set, message, handler, {}, 20_000],
      [set, {}, handler, {}, 30_000],
      [set, {}, { retryPolicy: "own_class" }, {}, 11_000],
      [set, {}, {}, {}, 40_000],
      [plain, {}, handler, {}, 30_000],
      [plain, {}, {}, {}, 50_000],
      [plain, { retry: "service_unavailable" }, handler, {}, 10_000],
      [plain, { retry: "own_class" }, handler, {}, 11_000],
    ] as const;
    for (const [to, own, options, fields, pause] of table) {
      const { messageId } = await queue.sendMessage({ ...note(to), ...own });
      const worker = queue.work(
        to,
        () => {
          throw Object.assign(new Error("failed"), fields);
        },
        options,
      );
      const stored = await until(async () => {
        const found = await queue.getMessage(messageId);
        return found?.state === "scheduled" ? found : undefined;
      });
      await worker.stop();
      const waits = Number(stored.visibleAt) - Number(stored.failures[0]?.at);
      expect(waits, JSON.stringify([own, options, fields])).toBe(pause);
      await queue.cancelMessage(messageId);
    }
  });

  it("a handler's own nack is under its policies too", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    queue.work(to, (message) => message.nack(new Error("not yet")), {
      retryPolicy: { strategy: "fixed", initialDelayMs: 70_000, jitter: 0 },
    });
    const stored = await until(async () => {
      const found = await queue.getMessage(messageId);
      return found?.state === "scheduled" ? found : undefined;
    });
    expect(Number(stored.visibleAt) - Number(stored.failures[0]?.at)).toBe(70_000);
  });

  it("notices within a second that a mailbox was given another policy", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    const pauseOf = async () => {
      const { messageId } = await queue.sendMessage(note(to));
      await (await claimed(queue, to)).nack(new Error("x"));
      const stored = await queue.getMessage(messageId);
      await queue.cancelMessage(messageId);
      return Number(stored?.visibleAt) - Number(stored?.failures[0]?.at);
    };
    expect(await pauseOf()).toBeLessThanOrEqual(1_000);
    // By another process.
    const { queue: other } = watched(knex);
    await other.mailboxes.set(to, { retryPolicy: { delaysMs: [90_000], jitter: 0 } });
    await until(async () => (await pauseOf()) === 90_000);
    // By this one, at once.
    await queue.mailboxes.set(to, { retryPolicy: "service_unavailable" });
    expect(await pauseOf()).toBe(10_000);
    expect(await queue.mailboxes.get(to)).toMatchObject({ retryPolicy: "service_unavailable" });
    await queue.mailboxes.set(to, { retryPolicy: null });
    expect(await pauseOf()).toBeLessThanOrEqual(1_000);
    const wrong = await failure(() => queue.mailboxes.set(to, { retryPolicy: "typo" }));
    expect(wrong.message).toMatch(/settings\.retryPolicy: no retry policy is called so/);
  });

  it("a message sent with maxAttempts has as many runs under every policy", async () => {
    const { queue } = watched(database.knex(), { retryPolicy: { maxAttempts: 4 } });
    const errors = [
      () => named("rate_limit"),
      () => new Error("x"),
      () => named("transient_error"),
    ];
    for (const maxAttempts of [1, 2, 6]) {
      for (const error of errors) {
        const to = mailbox();
        const retry = { maxAttempts: 5, initialDelayMs: 0 };
        const { messageId } = await queue.sendMessage({ ...note(to), maxAttempts, retry });
        expect(await failAll(database, queue, to, error)).toHaveLength(maxAttempts - 1);
        expect(await queue.deadLetters.get(messageId)).toMatchObject({
          attempt: maxAttempts,
          maxAttempts,
        });
      }
    }
  });

  it("a worker's maxAttempts is for messages that were sent without a number of their own", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const open = await queue.sendMessage(note(to));
    const own = await queue.sendMessage({
      ...note(to),
      retry: { maxAttempts: 2, initialDelayMs: 0 },
    });
    const fixed = await queue.sendMessage({ ...note(to), maxAttempts: 1 });
    queue.work(
      to,
      () => {
        throw new Error("no");
      },
      { retryPolicy: { maxAttempts: 7, initialDelayMs: 0 } },
    );
    const dead = (id: string) => until(() => queue.deadLetters.get(id));
    expect(await dead(open.messageId)).toMatchObject({ attempt: 7, maxAttempts: 7 });
    expect(await dead(own.messageId)).toMatchObject({ attempt: 2 });
    expect(await dead(fixed.messageId)).toMatchObject({ attempt: 1 });
  });

  it("the number of runs that a person gives a dead letter is kept as well", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage({ ...note(to), retry: "transient_error" });
    await (await claimed(queue, to)).nack(new Error("x"), { retry: false });
    await queue.deadLetters.edit(messageId, { maxAttempts: 2 }, { replay: true });
    expect(await failAll(database, queue, to, () => named("rate_limit"))).toHaveLength(1);
    expect(await queue.deadLetters.get(messageId)).toMatchObject({ attempt: 2, maxAttempts: 2 });
  });

  it("a policy is named on the command line too", async () => {
    const to = mailbox();
    const cli = (...argv: string[]) => runCli(argv, { database: database.url() });
    expect(await cli("send", to, "--type", "NOTE", "--retry", "rate_limit")).toMatchObject({
      code: 0,
    });
    const { queue } = watched(database.knex());
    expect(await claimed(queue, to)).toMatchObject({ retry: "rate_limit", maxAttempts: 5 });
    const typo = await cli("send", to, "--type", "NOTE", "--retry", "rate-limit");
    expect(typo.code).not.toBe(0);
    expect(typo.err).toContain("there are transient_error, rate_limit, service_unavailable");
  });

  it("a crash counts by the number of runs that the last failure gave", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    expect(await (await claimed(queue, to)).nack(named("rate_limit"))).toBe("retried");
    expect(await queue.getMessage(messageId)).toMatchObject({ attempt: 1, maxAttempts: 5 });
    for (let run = 2; run <= 5; run++) {
      await elapse(database.knex(), 200_000, messageId);
      expect((await claimed(queue, to)).attempt).toBe(run);
    }
    await elapse(database.knex(), 200_000, messageId);
    expect(await queue.getMessages(to)).toEqual([]);
    expect(await queue.deadLetters.get(messageId)).toMatchObject({
      reason: "max_attempts",
      attempt: 5,
    });
  });

  it("dead-letters at once what a policy calls hopeless, unless the caller wants another run", async () => {
    const { queue } = watched(database.knex(), {
      retryPolicy: { nonRetryable: ["E_FATAL", "SyntaxError"] },
    });
    const to = mailbox();
    for (const error of [
      Object.assign(new Error("x"), { code: "E_FATAL" }),
      new SyntaxError("y"),
    ]) {
      const { messageId } = await queue.sendMessage({ ...note(to), retry: "transient_error" });
      expect(await (await claimed(queue, to)).nack(error)).toBe("dead_lettered");
      expect(await queue.deadLetters.get(messageId)).toMatchObject({
        reason: "rejected",
        attempt: 1,
        failures: [{ attempt: 1, error: { message: error.message } }],
      });
      await queue.sendMessage(note(to));
      expect(await (await claimed(queue, to)).nack(error, { delayMs: 0 })).toBe("retried");
      expect(await (await claimed(queue, to)).nack(error, { retry: false })).toBe("dead_lettered");
    }
  });

  it("a 429 with retry-after burns no run, however often", async () => {
    const { queue, named: told } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage({ ...note(to), maxAttempts: 1 });
    const headers = new Headers({ "retry-after": "30" });
    const forms = [
      new RateLimited("slow down", { details: { retryAfterMs: 30_000 } }),
      Object.assign(new Error("Too Many Requests"), { status: 429, headers }),
      Object.assign(new Error("429"), {
        response: { status: 429, headers: { "Retry-After": 30 } },
      }),
      Object.assign(named("rate_limit"), { retryAfterMs: 30_000 }),
    ];
    for (const error of [...forms, ...forms]) {
      const claim = await claimed(queue, to);
      expect(claim).toMatchObject({ attempt: 1, failures: [] });
      expect(await claim.nack(error)).toBe("retried");
      const stored = await queue.getMessage(messageId);
      expect(stored).toMatchObject({
        state: "scheduled",
        attempt: 0,
        maxAttempts: 1,
        failures: [],
      });
      expect(stored?.lastError?.message).toBe(error.message);
      const left = Number(stored?.visibleAt) - (claim.leaseExpiresAt - 30_000);
      expect(left).toBeGreaterThanOrEqual(30_000);
      expect(left).toBeLessThan(45_000);
      const [why] = await queue.why(messageId);
      expect(why?.reason).toContain(error.message);
      await elapse(database.knex(), 60_000, messageId);
    }
    expect(told(messageId)).not.toContain("retried");
    expect(told(messageId).filter((event) => event === "released")).toHaveLength(8);
    // Without one, or with a delay of the caller's, it counts.
    expect(await (await claimed(queue, to)).nack(new RateLimited("again"))).toBe("dead_lettered");
    expect(await queue.deadLetters.get(messageId)).toMatchObject({ attempt: 1 });
  });

  it("a worker whose handler met a 429 goes on when it may, with the first run", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage({ ...note(to), maxAttempts: 1 });
    const runs: number[] = [];
    const worker = queue.work(
      to,
      (message) => {
        runs.push(message.attempt);
        if (runs.length < 3) throw new RateLimited("later", { details: { retryAfterMs: 150 } });
      },
      { pollMs: { min: 20_000, max: 20_000 } },
    );
    await until(() => worker.stats.processed === 1);
    expect(runs).toEqual([1, 1, 1]);
    expect(worker.stats).toMatchObject({ failed: 0, released: 2 });
  });

  it("parks the bucket that the message passed, for all processes", async () => {
    const { knex } = await database.fresh();
    const [to, other] = [mailbox(), mailbox()];
    const { queue } = watched(knex);
    const { queue: elsewhere } = watched(knex);
    const rate = { amount: 1_000, perMs: 1_000 };
    await queue.limits.set("ours", { agentId: to, rate });
    await queue.limits.set("other", { agentId: other, rate });
    const parked = async () => {
      const all = await queue.limits.list();
      return all.filter(({ parkedUntil }) => parkedUntil !== null).map(({ name }) => name);
    };
    await queue.sendMessages([note(to), note(to), note(other)]);
    const [first] = await elsewhere.getMessages(to, { limit: 1 });
    const details = { retryAfterMs: 60_000 };
    expect(await first?.nack(new RateLimited("slow", { details }))).toBe("retried");
    expect(await parked()).toEqual(["ours"]);
    // The next message would only be told the same.
    expect(await queue.getMessages(to)).toEqual([]);
    const [second] = await queue.getMessages(other);
    await second?.nack(new RateLimited("slow", { details: { ...details, limit: "nobody's" } }));
    expect(await parked()).toEqual(["ours"]);
    await knex("outbox_limits").update({ parked_until: 1 });
    expect(await queue.getMessages(to)).toHaveLength(1);
  });

  it("counts failures for the circuit breaker, unless their policy says otherwise", async () => {
    const { knex } = await database.fresh();
    const to = mailbox();
    const { queue } = watched(knex, { retryPolicies: { E_QUIET: { circuitBreaker: false } } });
    await queue.mailboxes.set(to, { breaker: { failureThreshold: 2, recoveryTimeoutMs: 60_000 } });
    const quiet = () => Object.assign(new Error("quiet"), { code: "E_QUIET" });
    const failOne = async (error: unknown) => {
      await queue.sendMessage({ ...note(to), maxAttempts: 2 });
      await (await claimed(queue, to)).nack(error);
      return (await queue.mailboxes.get(to)).breaker;
    };
    for (const error of [quiet(), new RateLimited("x"), quiet(), new RateLimited("y")]) {
      expect(await failOne(error)).toMatchObject({ state: "closed", failures: 0 });
    }
    expect(await failOne(new ServiceUnavailable("down"))).toMatchObject({ failures: 1 });
    expect(await failOne(new Error("down"))).toMatchObject({ state: "open" });
  });

  it("believes a retry-after only where the policy says so, and then counts the run", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const error = () => new ServiceUnavailable("down", { details: { retryAfterMs: 77_000 } });
    for (const [retryPolicies, pause] of [
      [{ service_unavailable: { respectRetryAfter: true, delaysMs: [1_000], jitter: 0 } }, 77_000],
      [{}, 10_000],
    ] as const) {
      const { messageId } = await queue.sendMessage(note(to));
      const worker = queue.work(
        to,
        () => {
          throw error();
        },
        { retryPolicies },
      );
      const stored = await until(async () => {
        const found = await queue.getMessage(messageId);
        return found?.state === "scheduled" ? found : undefined;
      });
      await worker.stop();
      expect(stored.attempt).toBe(1);
      expect(Number(stored.visibleAt) - Number(stored.failures[0]?.at)).toBe(pause);
      await queue.cancelMessage(messageId);
    }
  });

  it("refuses a policy that does not exist or makes no sense, and stores nothing", async () => {
    const { queue } = watched(database.knex(), { retryPolicies: { mine: { maxAttempts: 2 } } });
    const to = mailbox();
    for (const retry of ["typo", "", { maxAttempts: 0 }, { foo: 1 }, { strategy: "schedule" }, 7]) {
      const error = await failure(() => queue.sendMessage({ ...note(to), retry } as never));
      expect(error.code).toBe("VALIDATION_FAILED");
      expect(error.message).toMatch(/message\.retry/);
    }
    expect(await queue.getMessages(to)).toEqual([]);
    for (const options of [{ retryPolicy: "typo" }, { retryPolicies: { E: "typo" } }]) {
      const error = await failure(() => queue.work(to, () => undefined, options));
      expect(error.message).toMatch(/options\.retryPol.+there are transient_error.+mine/);
    }
    const wrong = await failure(() => watched(database.knex(), { retryPolicies: { E: "typo" } }));
    expect(wrong.code).toBe("VALIDATION_FAILED");
    // The name is the sender's: whoever works needs not know it.
    const { messageId } = await queue.sendMessage({ ...note(to), retry: "mine" });
    const { queue: other } = watched(database.knex());
    expect((await other.getMessage(messageId))?.maxAttempts).toBe(2);
    expect((await claimed(other, to)).retry).toMatchObject({ maxAttempts: 2 });
  });
});
