import {
  type ClaimedMessage,
  type MessageInput,
  type Outbox,
  openOutbox,
  type WorkHandler,
  type WorkOptions,
} from "../../lib/index.ts";
import { heading, inTime, onEach, quantile, type Ratio, round, timed } from "./measure.ts";
import { table } from "./report.ts";
import type { Bench } from "./run.ts";

const BATCH = 500;
const IN_FLIGHT = 64;
/** What the first run of a kind gets; it tells how many the others get. */
const FIRST = 1_000;
const [LEAST, MOST] = [2_000, 30_000];

type Fields = (n: number) => Partial<MessageInput>;

/** One kind of work: what it takes to do it with so many messages, in milliseconds. */
type Work = (stage: Stage, count: number) => Promise<number>;

/** An outbox, and a mailbox that nothing was sent to. */
interface Stage {
  readonly outbox: Outbox;
  readonly box: string;
}

const message = (box: string, fields: Partial<MessageInput> = {}): MessageInput => ({
  fromAgent: "bench",
  toAgent: box,
  messageType: "task_request",
  content: { text: "x".repeat(180) },
  ...fields,
});

async function fill({ outbox, box }: Stage, count: number, fields: Fields = () => ({})) {
  for (let n = 0; n < count; n += BATCH) {
    const size = Math.min(BATCH, count - n);
    await outbox.queue.sendMessages(
      Array.from({ length: size }, (_, k) => message(box, fields(n + k))),
    );
  }
}

/** Batches whose messages have these fields. */
const batches =
  (fields: (box: string) => Fields = () => () => ({})): Work =>
  (stage, count) =>
    timed(() => fill(stage, count, fields(stage.box)));

/** Single sends, many in flight. */
const singles =
  (fields: (box: string) => Fields = () => () => ({})): Work =>
  ({ outbox, box }, count) => {
    const own = fields(box);
    let next = 0;
    const one = async () => {
      for (let n = next++; n < count; n = next++) {
        await outbox.queue.sendMessage(message(box, own(n)));
      }
    };
    return timed(() => Promise.all(Array.from({ length: IN_FLIGHT }, one)));
  };

/** A worker with this handler, until all have ended. */
const worked =
  (
    handler: (stage: Stage) => WorkHandler,
    { fields, ...options }: WorkOptions & { fields?: Fields } = {},
  ): Work =>
  async (stage, count) => {
    await fill(stage, count, fields);
    if (fields?.(0).delayMs !== undefined) await new Promise((done) => setTimeout(done, 1_500));
    return timed(async () => {
      const worker = stage.outbox.queue.work(stage.box, handler(stage), {
        ...{ concurrency: 100, batchSize: BATCH },
        ...options,
      });
      const ended = () =>
        worker.stats.processed + (fields?.(0).maxAttempts ? worker.stats.failed : 0);
      while (ended() < count) await new Promise((done) => setTimeout(done, 2));
      await worker.stop();
    });
  };

/** Claims a hundred at a time by hand. */
const polled =
  (end: (stage: Stage, claims: ClaimedMessage[]) => Promise<unknown>): Work =>
  async (stage, count) => {
    await fill(stage, count);
    return timed(async () => {
      for (let done = 0; done < count; ) {
        const claims = await stage.outbox.queue.getMessages(stage.box, { limit: 100 });
        await end(stage, claims);
        done += claims.length;
      }
    });
  };

const failOnce: WorkHandler = ({ attempt }) => {
  if (attempt === 1) throw new Error("not now");
};
const nothing: WorkHandler = () => undefined;

/** By what they are compared with, the first of each. */
const KINDS: Readonly<Record<string, Readonly<Record<string, Work>>>> = {
  "batches of 500": {
    plain: batches(),
    "each its own correlation id": batches(() => (n) => ({ correlationId: `c-${n}` })),
    "to fifty mailboxes": batches((box) => (n) => ({ toAgent: `${box}-${n % 50}` })),
    "each its own dedupe key": batches((box) => (n) => ({ dedupeKey: `${box}-${n}` })),
    "a day's delay": batches(() => () => ({ delayMs: 86_400_000 })),
    "each its own ordering key": batches(() => (n) => ({ orderingKey: `o-${n}` })),
    "five hundred concurrency keys": batches(() => (n) => ({ concurrencyKey: `k-${n % 500}` })),
  },
  "single sends, 64 in flight": {
    plain: singles(),
    "ids of the sender's own": singles((box) => (n) => ({ messageId: `${box}-${n}` })),
    "each its own dedupe key": singles((box) => (n) => ({ dedupeKey: `${box}-${n}` })),
  },
  "a worker, concurrency 100": {
    plain: worked(() => nothing),
    "handlers that await": worked(() => async () => await Promise.resolve()),
    "handlers that fail once": worked(() => failOnce, { retryPolicy: { initialDelayMs: 10 } }),
    "handlers that fail for good": worked(
      () => () => {
        throw new Error("no");
      },
      { fields: () => ({ maxAttempts: 1 }) },
    ),
    "handlers that acknowledge": worked(() => (claim) => claim.ack()),
    "handlers that reply": worked(() => (claim) => claim.reply({ done: true })),
    "handlers that send on": worked(
      ({ outbox, box }) =>
        () =>
          outbox.queue.sendMessage(message(`${box}-next`)),
    ),
    "handlers that send on in their transaction": worked(
      ({ outbox, box }) =>
        (_, { tx }) =>
          tx((trx) => outbox.queue.sendMessage(message(`${box}-next`), { tx: trx })),
    ),
    "handlers that note progress": worked(() => (_, context) => context.progress({ at: 1 })),
    EXACTLY_ONCE: worked(() => nothing, { fields: () => ({ delivery: "EXACTLY_ONCE" }) }),
    AT_MOST_ONCE: worked(() => nothing, { fields: () => ({ delivery: "AT_MOST_ONCE" }) }),
    "messages that fell due": worked(() => nothing, { fields: () => ({ delayMs: 1_000 }) }),
    "five hundred ordering keys": worked(() => nothing, {
      fields: (n) => ({ orderingKey: `o-${n % 500}` }),
    }),
    "five hundred concurrency keys": worked(() => nothing, {
      fields: (n) => ({ concurrencyKey: `k-${n % 500}` }),
    }),
    "by hand: ackMessages of a hundred": polled(({ outbox }, claims) =>
      outbox.queue.ackMessages(claims),
    ),
    "by hand: a hundred acknowledged at the same time": polled((_, claims) =>
      Promise.all(claims.map((claim) => claim.ack())),
    ),
  },
};

/** What the kinds of work cost beside the plain one, which the other benches measure. */
export const kindsBench: Bench = async (wanted) => {
  const { quick, rounds, say } = wanted;
  const ratios: Ratio[] = [];
  const rates: { name: string; database: string; perSecond: number; byPlain: number }[] = [];
  const durability = await onEach(wanted, async (at, database) => {
    const url = await at.empty("kinds");
    const outbox = await openOutbox({ database: url, migrate: true, agentId: "bench" });
    let boxes = 0;
    const measured = async (work: Work, count: number) => {
      boxes += 1;
      const tookMs = await inTime(work({ outbox, box: `box-${boxes}` }, count));
      return (count / tookMs) * 1_000;
    };
    for (const [group, kinds] of Object.entries(KINDS)) {
      const all = Object.entries(kinds).map(([name, work]) => ({
        ...{ name, work, count: quick ? 100 : FIRST, rates: [] as number[] },
      }));
      for (let turn = 0; turn <= rounds; turn++) {
        // In another order each time.
        for (const kind of turn % 2 === 0 ? all : [...all].reverse()) {
          const rate = await measured(kind.work, kind.count);
          if (turn > 0) kind.rates.push(rate);
          else if (!quick) kind.count = Math.min(MOST, Math.max(LEAST, Math.round(rate)));
          say(`${database}: ${group}, ${kind.name}: ${Math.round(rate)}/s`);
        }
      }
      const medians = all.map(({ name, rates }) => ({ name, rate: quantile(rates, 0.5) }));
      const base = medians[0]?.rate ?? Number.NaN;
      for (const { name, rate } of medians) {
        const value = rate / base;
        rates.push({
          name: `${group}: ${name}`,
          database,
          perSecond: round(rate, 0),
          byPlain: round(value),
        });
        if (name === "plain") continue;
        ratios.push({
          name: `kinds, ${group}, ${name}: by plain`,
          ...{ database, value: round(value), higherIsBetter: true },
        });
      }
    }
    await outbox.close();
    await at.drop(url);
  });
  const text = [
    ...heading("Kinds of work", wanted, durability),
    "Messages a second, and by those of the plain kind in the same run.",
    table([
      ["", "database", "messages/s", "by plain"],
      ...rates.map(({ name, database, perSecond, byPlain }) => [
        ...[name, database, String(perSecond), `${byPlain.toFixed(2)}×`],
      ]),
    ]),
  ].join("\n\n");
  return { result: { durability, rates, ratios }, text: `${text}\n` };
};
