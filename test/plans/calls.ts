import type { Knex } from "knex";
import type { ClaimedMessage, MessageQueueManager } from "../../lib/index.ts";
import { note } from "../support/queue.ts";

/** One call of the public API, and what it may cost. */
export interface Call {
  readonly name: string;
  run(): Promise<unknown>;
  /** Rows that one step of a plan may read. */
  readonly most: number;
  /** It counts as far as `most`, of whatever rows come first: in whatever order they lie. */
  readonly counts?: boolean;
  /** Pages that a scan of a whole table may read instead: a larger table has its index walked. */
  readonly pages?: number;
  /** Asked by people: not looked at with old statistics. */
  readonly cold?: boolean;
}

/** Messages that a claim asks for. */
const LIMIT = 20;
/** Due messages that one claim makes ready, and rows that one step of upkeep takes. */
const STEP = 500;
/** Rows that a step of upkeep looks at. */
const LOOK = 2 * STEP;
/** Rows that statistics count at most; what is not of the state that is counted is passed over. */
export const COUNTED = 2 * 10_001;

/** Upkeep's report tells of passed leases among the first 10,000 ready messages. */
export const COUNTS = / AS lapsed from/i;

/** Pages that PostgreSQL rather reads one after the other than to look 500 rows up. */
const PAGES = 4 * STEP;

/** What settling takes: each gets claims of its own. */
const PORTION = 4;

/** Limits of a queue whose calls are looked at. */
export const RETENTIONS = {
  notify: false,
  archiveRetentionMs: 20 * 86_400_000,
  deadLetterRetentionMs: 20 * 86_400_000,
  inboxRetentionMs: 20 * 86_400_000,
};

/** Every call whose cost must not grow, in an order in which each finds something to do. */
export function calls(knex: Knex, queue: MessageQueueManager, round: string): Call[] {
  const held: ClaimedMessage[] = [];
  const take = () => held.splice(0, PORTION);
  const one = () => held.splice(0, 1)[0] as ClaimedMessage;
  const claim = async (mailbox: string, options: { messageTypes?: string[] } = {}) => {
    const claimed = await queue.getMessages(mailbox, { limit: LIMIT, ...options });
    held.push(...claimed);
    return claimed.length;
  };
  const found = async (run: Promise<unknown>) => {
    if ((await run) === null) throw new Error("there was nothing to look at");
  };
  const upkeep = async () => {
    const { failed } = await queue.maintain();
    if (failed.length > 0) throw new Error(JSON.stringify(failed));
  };
  const few = 3 * LIMIT;
  return [
    { name: "send", most: 0, run: () => queue.sendMessage(note("busy")) },
    {
      name: "send a batch",
      most: 0,
      run: () => queue.sendMessages(Array.from({ length: STEP }, (_, n) => note("busy", { n }))),
    },
    {
      name: "send later",
      most: 0,
      run: () => queue.sendMessage({ ...note("busy"), delayMs: 3_600_000, ttlMs: 1 }),
    },
    {
      name: "send under a dedupe key",
      most: 3,
      run: () =>
        queue.sendMessages(
          ["key-2", `key-${round}`].map((key) => ({ ...note("busy"), dedupeKey: key })),
        ),
    },
    {
      name: "send under an ordering key",
      most: 3,
      run: () => queue.sendMessage({ ...note("ordered"), orderingKey: "key-7" }),
    },
    {
      name: "send under a new ordering key",
      most: 3,
      run: () => queue.sendMessage({ ...note("ordered"), orderingKey: `key-${round}` }),
    },
    {
      name: "send under a concurrency key",
      most: 3,
      run: () => queue.sendMessage({ ...note("shared"), concurrencyKey: "key-7" }),
    },
    { name: "claim", most: few, run: () => claim("busy") },
    // Every tenth is of this type.
    {
      name: "claim of a type",
      most: 10 * few,
      run: () => claim("busy", { messageTypes: ["OTHER"] }),
    },
    { name: "claim of an empty mailbox", most: 0, run: () => claim("nobody") },
    { name: "claim where all is scheduled", most: 1, run: () => claim("later-7") },
    { name: "claim through a limit", most: few, run: () => claim("gated") },
    { name: "extend", most: few, run: () => one().extend(60_000) },
    { name: "defer", most: few, run: () => one().defer(60_000) },
    { name: "nack", most: few, run: () => one().nack(new Error("no")) },
    { name: "give back", most: few, run: () => one().defer(0) },
    { name: "dead-letter", most: few, run: () => one().deadLetter("rejected") },
    { name: "ack one", most: few, run: () => one().ack() },
    { name: "ack many", most: few, run: () => queue.ackMessages(take()) },
    {
      name: "ack by id",
      most: few,
      run: () => queue.markProcessed(one().messageId, "busy"),
    },
    {
      name: "nack by id",
      most: few,
      run: () => queue.nack(one().messageId, "busy", new Error("no")),
    },
    { name: "claim of ordering keys", most: few + 100, run: () => claim("ordered") },
    {
      name: "ack under an ordering key",
      most: few,
      run: () => queue.ackMessages(held.splice(-PORTION)),
    },
    { name: "claim of concurrency keys", most: few + 100, run: () => claim("shared") },
    {
      name: "ack under a concurrency key",
      most: few,
      run: () => queue.ackMessages(held.splice(-PORTION)),
    },
    {
      name: "nack under a concurrency key",
      most: few,
      run: () => (held.pop() as ClaimedMessage).nack(new Error("no"), { delayMs: 1_000 }),
    },
    { name: "claim of what fell due", most: STEP + few, run: () => claim("due") },
    { name: "cancel", most: few, run: () => queue.cancelMessage(one().messageId) },
    { name: "look up a live one", most: few, run: () => found(queue.getMessage("busy-1000")) },
    { name: "look up a finished one", most: few, run: () => found(queue.getMessage("done-1000")) },
    { name: "look up a dead one", most: few, run: () => found(queue.getMessage("dead-1000")) },
    { name: "look up none", most: 0, run: () => queue.getMessage("none") },
    { name: "idle look", most: 101, run: () => idleLook(knex, queue, "later-8") },
    { name: "idle look in vain", most: 101, run: () => idleLook(knex, queue, "nobody") },
    { name: "upkeep", most: 3 * LOOK, pages: PAGES, run: upkeep },
    { name: "upkeep again", most: 3 * LOOK, pages: PAGES, run: upkeep },
    {
      name: "stats of a mailbox",
      most: COUNTED,
      counts: true,
      cold: true,
      run: () => queue.getQueueStats("busy"),
    },
    {
      name: "stats of all",
      most: COUNTED,
      counts: true,
      cold: true,
      run: () => queue.getQueueStats(),
    },
    {
      name: "list dead letters",
      most: few,
      cold: true,
      run: () => queue.deadLetters.list({ limit: LIMIT }),
    },
    {
      name: "list dead letters of a mailbox",
      most: few,
      cold: true,
      run: () => queue.deadLetters.list({ agentId: "agent-7", limit: LIMIT }),
    },
    {
      name: "redrive",
      most: 2 * few,
      cold: true,
      run: () => queue.deadLetters.redrive({ limit: LIMIT }),
    },
  ];
}

/** Until a worker that found nothing for a while asks whether anything is there at all. */
async function idleLook(knex: Knex, queue: MessageQueueManager, mailbox: string): Promise<void> {
  let listen: ((query: { sql: string }) => void) | undefined;
  const asked = new Promise<void>((resolve) => {
    listen = ({ sql }) => {
      if (/\bmin\(x\.visible_at\)/.test(sql)) resolve();
    };
    knex.on("query", listen);
  });
  const worker = queue.work(mailbox, () => undefined, { pollMs: { min: 1, max: 2 } });
  await asked;
  await worker.stop();
  if (listen !== undefined) knex.removeListener("query", listen);
}
