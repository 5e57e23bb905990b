import fc from "fast-check";
import type { Knex } from "knex";
import { expect } from "vitest";
import type { ClaimedMessage, MessageQueueManager } from "../../lib/index.ts";
import { elapse } from "../support/queue.ts";
import type { Model, ModelClaim, ModelInput, ModelMessage } from "./model.ts";
import { buried, complete } from "./model-claims.ts";
import { RolledBack } from "./recorder.ts";

export interface Real {
  readonly queue: MessageQueueManager;
  readonly knex: Knex;
  /** The claims in the order of the model's. */
  readonly claims: ClaimedMessage[];
}

type Run = (model: Model, real: Real) => Promise<void>;
type Act = fc.AsyncCommand<Model, Real>;

const MINUTE_MS = 60_000;
const MAILBOXES = ["plain", "keyed", "shared", "limited"] as const;

/** The most in flight at once, by mailbox. */
export const LIMITS = { limited: 2 };

function command(name: string, run: Run, check: (model: Model) => boolean = () => true): Act {
  return { check: (model) => check(model as Model), run, toString: () => name };
}

/** Whole minutes, so that the moments that a run takes never matter. */
const minutes = (most: number) => fc.integer({ min: 0, max: most }).map((n) => n * MINUTE_MS);
const mailbox = fc.constantFrom(...MAILBOXES);
/** Mostly not. */
const seldom = <T, N>(value: fc.Arbitrary<T>, otherwise: N) =>
  fc.oneof({ weight: 5, arbitrary: fc.constant(otherwise) }, { weight: 1, arbitrary: value });

const input = fc
  .record({
    n: fc.integer({ min: 0, max: 60 }),
    ownId: fc.boolean(),
    to: mailbox,
    priority: fc.constantFrom(10, 20, 40),
    delayMs: seldom(minutes(3), 0),
    ttlMs: seldom(
      minutes(3).map((ms) => ms + MINUTE_MS),
      null,
    ),
    maxAttempts: fc.integer({ min: 1, max: 3 }),
    dedupeKey: seldom(fc.constantFrom("d1", "d2", "d3"), undefined),
    key: fc.constantFrom("a", "b", undefined),
  })
  .map(({ n, key, ...rest }) => ({
    ...rest,
    id: `m${n}`,
    orderingKey: rest.to === "keyed" ? key : undefined,
    concurrencyKey: rest.to === "shared" ? key : undefined,
  }));

/** The message as the queue takes it, with an id of the model's where the sender leaves it out. */
function toSend(run: string, { id, ownId, to, ttlMs, ...rest }: ModelInput) {
  const fields = Object.fromEntries(
    Object.entries(rest).filter(([, value]) => value !== undefined),
  );
  return {
    ...{ toAgent: to, messageType: "NOTE", content: { run } },
    ...fields,
    ...(ownId ? { messageId: id } : {}),
    ...(ttlMs === null ? {} : { ttlMs }),
  };
}

const send = fc
  .tuple(
    fc.uniqueArray(input, { minLength: 1, maxLength: 8, selector: ({ id }) => id }),
    fc.constantFrom("plain", "tx", "rollback"),
  )
  .map(([inputs, how]) =>
    command(`send ${how} ${JSON.stringify(inputs)}`, async (model, { queue, knex }) => {
      const messages = inputs.map((one) => toSend("model", one));
      if (how === "rollback") {
        const rolledBack = knex.transaction(async (tx) => {
          await queue.sendMessages(messages, { tx });
          throw new RolledBack();
        });
        await expect(rolledBack).rejects.toBeInstanceOf(RolledBack);
        return;
      }
      const sent =
        how === "plain"
          ? await queue.sendMessages(messages)
          : await knex.transaction((tx) => queue.sendMessages(messages, { tx }));
      inputs.forEach((one, n) => {
        // Where the queue chose the id, the model learns it.
        const id = one.ownId ? one.id : String(sent[n]?.messageId);
        expect(sent[n]).toEqual(model.send({ ...one, id }));
      });
    }),
  );

const claim = fc.tuple(mailbox, fc.integer({ min: 1, max: 6 }), minutes(3)).map(([to, limit, ms]) =>
  command(`claim ${limit} of ${to} for ${ms + MINUTE_MS}`, async (model, { queue, claims }) => {
    const leaseMs = ms + MINUTE_MS;
    const got = await queue.getMessages(to, { limit, leaseMs });
    const most = Math.min(limit, model.room(to));
    await buried(model, queue, to, got.length < most);
    const wanted = model.candidates(to).filter((one) => model.doom(one) === null);
    const taken = got.map(({ messageId }) => {
      const message = wanted.find(({ id }) => id === messageId);
      return message ?? expect.fail(`${messageId} was not to be handed out`);
    });
    complete(model, to, wanted, taken, most);
    model.voidLapsed(to);
    got.forEach((one, n) => {
      const message = taken[n] as ModelMessage;
      model.claim(message, leaseMs);
      const { attempt, maxAttempts, redriven } = message;
      expect(one).toMatchObject({ attempt, maxAttempts, redriven });
      claims.push(one);
    });
  }),
);

/** Something done with one of the claims that were ever made. */
function withClaim(
  name: string,
  rest: fc.Arbitrary<number>,
  run: (model: Model, mine: ModelClaim, real: ClaimedMessage, value: number) => Promise<void>,
): fc.Arbitrary<Act> {
  return fc.tuple(fc.nat({ max: 50 }), rest).map(([nth, value]) =>
    command(
      `${name} the claim ${nth} (${value})`,
      async (model, { claims }) => {
        // The later ones rather than the first, which are lost by now.
        const at = model.claims.length - 1 - (nth % model.claims.length);
        await run(model, model.claims[at] as ModelClaim, claims[at] as ClaimedMessage, value);
      },
      (model) => model.claims.length > 0,
    ),
  );
}

const none = fc.constant(0);

const settling = [
  withClaim("ack", none, async (model, mine, real) => {
    const lost = model.lost(mine);
    expect(await real.ack()).toBe(lost ?? "acked");
    if (lost === undefined) model.end(mine.message, "processed");
  }),
  withClaim("nack", minutes(2), async (model, mine, real, delayMs) => {
    const lost = model.lost(mine);
    const last = mine.message.attempt >= mine.message.maxAttempts;
    const outcome = last ? "dead_lettered" : "retried";
    expect(await real.nack(new Error("no"), { delayMs })).toBe(lost ?? outcome);
    if (lost !== undefined) return;
    if (last) model.bury(mine.message, "max_attempts");
    else model.giveBack(mine.message, delayMs, false);
  }),
  withClaim("defer", minutes(2), async (model, mine, real, delayMs) => {
    const lost = model.lost(mine);
    expect(await real.defer(delayMs)).toBe(lost ?? "deferred");
    if (lost === undefined) model.giveBack(mine.message, delayMs, true);
  }),
  withClaim("extend", minutes(3), async (model, mine, real, ms) => {
    const lost = model.lost(mine);
    expect(await real.extend(ms + MINUTE_MS)).toBe(lost ?? "extended");
    if (lost === undefined) mine.leaseEndsAt = model.now + ms + MINUTE_MS;
  }),
  withClaim("dead-letter", none, async (model, mine, real) => {
    const lost = model.lost(mine);
    expect(await real.deadLetter("unwanted")).toBe(lost ?? "dead_lettered");
    if (lost === undefined) model.bury(mine.message, "unwanted");
  }),
];

const cancel = fc.nat({ max: 50 }).map((nth) =>
  command(
    `cancel ${nth}`,
    async (model, { queue }) => {
      const message = model.messages[nth % model.messages.length] as ModelMessage;
      expect(await queue.cancelMessage(message.id)).toBe(message.place === "live");
      if (message.place === "live") model.end(message, "cancelled");
    },
    (model) => model.messages.length > 0,
  ),
);

const pausing = mailbox.chain((to) => {
  const pause = command(`pause ${to}`, async (model, { queue }) => {
    await queue.pause(to);
    model.paused.add(to);
  });
  const resume = command(`resume ${to}`, async (model, { queue }) => {
    expect(await queue.resume(to)).toBe(model.paused.delete(to));
  });
  // What is paused for long shows nothing else.
  return fc.constantFrom(pause, resume, resume, resume);
});

const redrive = fc
  .tuple(mailbox, fc.integer({ min: 1, max: 4 }), minutes(1))
  .map(([to, limit, delayMs]) =>
    command(`redrive ${limit} of ${to} after ${delayMs}`, async (model, { queue }) => {
      const wanted = model.dead(to).slice(0, limit);
      const { messageIds } = await queue.deadLetters.redrive({ agentId: to, limit, delayMs });
      expect(messageIds).toEqual(wanted.map(({ id }) => id));
      for (const message of wanted) model.redrive(message, delayMs);
    }),
  );

const passing = minutes(2).map((ms) =>
  command(`${ms + MINUTE_MS} pass`, async (model, { knex }) => {
    await elapse(knex, ms + MINUTE_MS);
    model.now += ms + MINUTE_MS;
  }),
);

const maintain = fc.constant(
  command("maintain", async (model, { queue }) => {
    await queue.maintain();
    for (const message of model.messages) {
      const ends = message.place === "live" && !model.leased(message);
      if (ends && model.doom(message) === "expired") model.bury(message, "expired");
    }
  }),
);

/** What anybody may do, the common more often. */
export const COMMANDS = [
  send,
  send,
  claim,
  claim,
  claim,
  ...settling,
  settling[0] as fc.Arbitrary<Act>,
].concat([cancel, pausing, redrive, passing, passing, maintain]);
