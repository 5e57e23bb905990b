import { createHash } from "node:crypto";
import type { Knex } from "knex";
import { ValidationFailed } from "../errors.ts";
import {
  type AgentMessage,
  type Content,
  encode,
  type MessageInput,
} from "../protocol/envelope.ts";
import { Observers } from "../protocol/events.ts";
import {
  cancelOptionsSchema,
  delaySchema,
  leaseSchema,
  markOptionsSchema,
  messageListSchema,
  type NackOptions,
  nackOptionsSchema,
  noOptionsSchema,
  pauseOptionsSchema,
  type QueueOptions,
  type QueueOptionsInput,
  queueOptionsSchema,
  type ReceiveOptions,
  reasonSchema,
  receiveOptionsSchema,
} from "../protocol/options.ts";
import { MessageType } from "../protocol/types.ts";
import { id, parse, shown } from "../protocol/validate.ts";
import { connect, type DatabaseInput } from "../store/connect.ts";
import type { Db } from "../store/dialect.ts";
import { dialectFor } from "../store/dialects.ts";
import type { Sent } from "../store/messages.ts";
import { claimedRow } from "../store/rows.ts";
import { int, type Row } from "../store/sql.ts";
import {
  type AckOutcome,
  ClaimedMessage,
  type NackOutcome,
  type ReplyOptions,
  type Settler,
  type TxOption,
} from "./claimed.ts";
import { fieldsOf, newWorkerId, QueueCore } from "./core.ts";
import { DeadLetters } from "./dead-letters.ts";
import { archivedMessage, deadLetter, liveMessage, type StoredMessage } from "./stored.ts";
import { type UpkeepReport, upkeep } from "./upkeep.ts";
import { type Explanation, explain } from "./why.ts";
import { Worker, type WorkHandler, type WorkOptions } from "./worker.ts";
import { Bell, settledWithin } from "./worker-pace.ts";

/** What `getQueueStats` tells of one mailbox, or of all together. */
export interface QueueStats {
  /** Ready to be handed out. */
  pending: number;
  scheduled: number;
  /** Behind the head of their ordering key. */
  blocked: number;
  leased: number;
  dead: number;
  /** True where a number stands for "at least 10,000": counting stops there, so that its cost is bounded. */
  capped: boolean;
  /** Of the pending ones that were counted; null when nothing is pending. */
  oldestAgeMs: number | null;
  /** Processed in the last minute, from the archive; 0 when it is switched off. */
  messagesPerMinute: number;
  paused: boolean;
}

/** `close` waits for the pool no longer than this. */
const LONGEST_DESTROY_MS = 5_000;

const nackByIdSchema = nackOptionsSchema.extend(markOptionsSchema.shape);

/** Longest pause between two looks while `getMessages` waits, in milliseconds. */
const LONGEST_LOOK_MS = 500;

/**
 * The durable queue: mailboxes of agents in SQL tables. Every call checks its input before SQL sees it, and
 * every write joins the caller's transaction where `tx` is given.
 */
export class MessageQueueManager {
  readonly #core: QueueCore;
  readonly #owned: boolean;
  readonly #workers = new Set<Worker>();
  readonly #workerId = newWorkerId();
  /** The messages that could not be delivered: list, get, redrive, purge. */
  readonly deadLetters: DeadLetters;

  /**
   * @param database a knex instance (never closed by this class), a URL, or a knex configuration
   * @throws ValidationFailed for unknown or wrong options
   */
  constructor(
    database: DatabaseInput,
    options: QueueOptionsInput & { observers?: Observers | undefined } = {},
  ) {
    const { observers, ...rest } = options;
    const checked: QueueOptions = parse(queueOptionsSchema, rest, "options");
    const { knex, dialect, owned } = connect(database);
    this.#owned = owned;
    this.#core = new QueueCore(
      knex,
      dialectFor(dialect, checked.prefix),
      checked,
      observers ?? new Observers(),
    );
    this.deadLetters = new DeadLetters(this.#core);
  }

  /** The knex behind the queue, for transactions to send in. */
  get knex(): Knex {
    return this.#core.knex;
  }

  /** Stores one message; it exists if and only if the transaction commits. */
  async sendMessage(message: MessageInput | AgentMessage, options: TxOption = {}): Promise<Sent> {
    const encoded = encode(message, this.#defaults());
    const db = await this.#core.db(txOf(options));
    const [sent] = await this.#core.send(db, [encoded]);
    return sent as Sent;
  }

  /** Stores many messages in order, all or none, with a result per message. */
  async sendMessages(
    messages: readonly (MessageInput | AgentMessage)[],
    options: TxOption = {},
  ): Promise<Sent[]> {
    const list = parse(messageListSchema, messages, "messages");
    const defaults = this.#defaults();
    const encoded = list.map((message, n) => encode(message, defaults, `messages.${n}`));
    const db = await this.#core.db(txOf(options));
    return encoded.length === 0 ? [] : this.#core.send(db, encoded);
  }

  /** Claims messages of a mailbox: highest priority first, then order of arrival. Unsettled ones come back. */
  async getMessages(agentId: string, options: ReceiveOptions = {}): Promise<ClaimedMessage[]> {
    const agent = parse(id, agentId, "agentId");
    const asked = parse(receiveOptionsSchema, options, "options");
    await this.#core.db();
    const request = {
      agentId: agent,
      limit: asked.limit,
      leaseMs: asked.leaseMs,
      workerId: asked.workerId ?? this.#workerId,
      messageTypes: asked.messageTypes ?? null,
    };
    const deadline = performance.now() + asked.waitMs;
    // Listening begins before the first look, so that nothing falls between a look and the wait after it.
    const bell = new Bell();
    const unlisten = asked.waitMs === 0 ? undefined : this.#core.listen(agent, () => bell.ring());
    try {
      for (let pause = 5; ; pause = Math.min(pause * 2, LONGEST_LOOK_MS)) {
        const rows = await this.#core.claim(request);
        if (rows.length > 0) {
          return rows.map((row) => new ClaimedMessage(row, asked.leaseMs, this.#settler));
        }
        const left = deadline - performance.now();
        if (left <= 0 || this.#core.closed) return [];
        await bell.wait(Math.min(pause * (0.5 + Math.random()), left));
        if (this.#core.closed) return [];
      }
    } finally {
      unlisten?.();
    }
  }

  /**
   * Finishes a message by its id. True when this agent held it (with that receipt, where one is given); false
   * when it did not, and nothing was changed.
   */
  async markProcessed(
    messageId: string,
    agentId: string,
    options: { receipt?: number | undefined } & TxOption = {},
  ): Promise<boolean> {
    const { tx, ...rest } = options;
    const message = parse(id, messageId, "messageId");
    const agent = parse(id, agentId, "agentId");
    const { receipt } = parse(markOptionsSchema, rest, "options");
    const db = await this.#core.db(tx);
    const row = await this.#heldRow(db, message, agent, receipt);
    if (row === undefined) return false;
    const claim = { seq: int(row.seq), receipt: int(row.receipt) };
    const [outcome] = await this.#core.store.complete(db, [claim]);
    if (outcome === "done") {
      this.#core.tell(db, "processed", [fieldsOf(row as Parameters<typeof fieldsOf>[0])]);
    }
    return outcome === "done";
  }

  /**
   * Gives a message back as failed by its id, as `nack` of the claim itself does. `stale` when this agent does
   * not hold it (with that receipt, where one is given), `gone` when it has ended; then nothing was changed.
   */
  async nack(
    messageId: string,
    agentId: string,
    error: unknown,
    options: NackOptions & { receipt?: number | undefined } & TxOption = {},
  ): Promise<NackOutcome> {
    const { tx, ...given } = options;
    const message = parse(id, messageId, "messageId");
    const agent = parse(id, agentId, "agentId");
    const { receipt, ...rest } = parse(nackByIdSchema, given, "options");
    const db = await this.#core.db(tx);
    const row = await this.#heldRow(db, message, agent, receipt);
    if (row === undefined) {
      const rows = await this.#core.store.live(db, message);
      return rows.some((live) => live.to_agent === agent) ? "stale" : "gone";
    }
    const claim = claimedRow(row, this.#core.store.parseJson);
    return this.#settler.nack(new ClaimedMessage(claim, 0, this.#settler), error, { ...rest, tx });
  }

  /** Finishes many claims in one statement. */
  async ackMessages(
    claimed: readonly ClaimedMessage[],
    options: TxOption = {},
  ): Promise<AckOutcome[]> {
    const list = parse(messageListSchema, claimed, "claimed");
    const stranger = list.find((claim) => !(claim instanceof ClaimedMessage));
    if (stranger !== undefined) {
      throw new ValidationFailed(`claimed: expected claimed messages, got ${shown(stranger)}`);
    }
    return this.#settler.ack(claimed, options);
  }

  /** Takes a message out of all mailboxes, leased or not; a worker that holds it can no longer settle it. */
  async cancelMessage(
    messageId: string,
    options: { toAgent?: string } & TxOption = {},
  ): Promise<boolean> {
    const { tx, ...rest } = options;
    const message = parse(id, messageId, "messageId");
    const { toAgent } = parse(cancelOptionsSchema, rest, "options");
    const db = await this.#core.db(tx);
    const rows = await this.#core.store.cancel(db, message, toAgent);
    this.#core.tell(
      db,
      "cancelled",
      rows.map((row) => fieldsOf(row as Parameters<typeof fieldsOf>[0])),
    );
    return rows.length > 0;
  }

  /** The message wherever it is, or null. With several recipients: the one furthest from its end. */
  async getMessage(messageId: string, options: TxOption = {}): Promise<StoredMessage | null> {
    const message = parse(id, messageId, "messageId");
    const db = await this.#core.db(txOf(options));
    const json = this.#core.store.parseJson;
    const [live] = await this.#core.store.live(db, message);
    if (live !== undefined) return liveMessage(live, json, await this.#core.store.now(db));
    const [dead] = await this.#core.dead.get(db, message);
    if (dead !== undefined) return deadLetter(dead, json);
    const [done] = await this.#core.store.archived(db, message);
    return done === undefined ? null : archivedMessage(done, json);
  }

  /** Stops handing out messages of a mailbox, in every process; sending to it goes on. */
  async pause(agentId: string, options: { reason?: string } = {}): Promise<void> {
    const agent = parse(id, agentId, "agentId");
    const { reason } = parse(pauseOptionsSchema, options, "options");
    await this.#core.db();
    await this.#core.upkeep.pause(agent, reason ?? null);
  }

  /** Hands out messages of a paused mailbox again. False when it was not paused. */
  async resume(agentId: string): Promise<boolean> {
    const agent = parse(id, agentId, "agentId");
    await this.#core.db();
    const was = await this.#core.upkeep.resume(agent);
    this.#core.signal(new Set([agent]));
    return was;
  }

  /** Depth and age of one mailbox, or of all. Its cost does not grow with the backlog. */
  async getQueueStats(agentId?: string): Promise<QueueStats> {
    const agent = agentId === undefined ? null : parse(id, agentId, "agentId");
    const db = await this.#core.db();
    const { oldestCreatedAt, ...depth } = await this.#core.upkeep.depth(agent);
    const now = await this.#core.store.now();
    return {
      ...depth,
      oldestAgeMs: oldestCreatedAt === null ? null : Math.max(0, now - oldestCreatedAt),
      messagesPerMinute: await this.#core.upkeep.throughput(agent),
      paused: agent !== null && (await this.#core.upkeep.paused(db, agent)) !== null,
    };
  }

  /** What exactly keeps a message from being delivered, per recipient, and the remedy. */
  async why(messageId: string): Promise<Explanation[]> {
    return explain(this.#core, parse(id, messageId, "messageId"));
  }

  /** One bounded round of upkeep: expired messages, old archive rows and dedupe keys. Workers do it too. */
  async maintain(): Promise<UpkeepReport> {
    await this.#core.db();
    return upkeep(this.#core);
  }

  /** Whether the database answers now. */
  async isConnected(): Promise<boolean> {
    return !this.#core.closed && this.#core.upkeep.answers();
  }

  /**
   * Works a mailbox until `stop`: claims in batches, keeps leases alive while handlers run, acks what returns
   * and nacks what throws. Survives a database that goes away.
   */
  work(agentId: string, handler: WorkHandler, options: WorkOptions = {}): Worker {
    const worker = new Worker(
      this.#core,
      this.#settler,
      parse(id, agentId, "agentId"),
      handler,
      options,
    );
    this.#workers.add(worker);
    void worker.stopped.then(() => this.#workers.delete(worker));
    return worker;
  }

  /** Stops this queue's workers and closes the database, unless it was the caller's knex. */
  async close(): Promise<void> {
    await Promise.all([...this.#workers].map((worker) => worker.stop()));
    await this.#core.close();
    // A pool waits for every connection that is in use; one whose server is silent would keep it for ever.
    if (this.#owned) await settledWithin(LONGEST_DESTROY_MS, this.#core.knex.destroy());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** The row of a claim: of the one with this receipt, or of the one that the agent holds now. */
  async #heldRow(
    db: Db,
    messageId: string,
    agentId: string,
    receipt: number | undefined,
  ): Promise<Row | undefined> {
    if (receipt === undefined) return this.#core.store.heldBy(db, messageId, agentId);
    const rows = await this.#core.store.live(db, messageId);
    return rows.find((live) => live.to_agent === agentId && int(live.receipt) === receipt);
  }

  #defaults() {
    const { agentId, retryPolicy, maxMessageBytes } = this.#core.options;
    return { fromAgent: agentId, maxAttempts: retryPolicy.maxAttempts, maxMessageBytes };
  }

  readonly #settler: Settler = {
    ack: async (claims, options) => {
      const outcomes = await this.#core.ack(await this.#core.db(txOf(options)), claims);
      return outcomes.map((outcome) => (outcome === "done" ? "acked" : outcome));
    },
    nack: async (claim, error, { tx, ...rest }) => {
      const options = parse(nackOptionsSchema, rest, "options");
      return this.#core.nack(await this.#core.db(tx), claim, error, options);
    },
    defer: async (claim, delayMs, options) => {
      const delay = parse(delaySchema, delayMs, "delayMs");
      const db = await this.#core.db(txOf(options));
      const [outcome = "gone"] = await this.#core.release(db, [claim], delay, "deferred");
      return outcome === "done" ? "deferred" : outcome;
    },
    extend: async (claim, leaseMs) => {
      const length = parse(leaseSchema, leaseMs, "leaseMs");
      await this.#core.db();
      const [outcome = "gone"] = await this.#core.extend([{ claim }], length);
      return outcome === "done" ? "extended" : outcome;
    },
    deadLetter: async (claim, reason, error, options) => {
      const checked = parse(reasonSchema, reason, "reason");
      const outcome = await this.#core.bury(
        await this.#core.db(txOf(options)),
        claim,
        checked,
        error,
      );
      return outcome === "done" ? "dead_lettered" : outcome;
    },
    reply: (claim, content, options) => this.#reply(claim, content, options),
  };

  readonly #replies = new WeakMap<ClaimedMessage, number>();

  async #reply(
    claim: ClaimedMessage,
    content: Content | object,
    options: ReplyOptions,
  ): Promise<Sent> {
    const { tx, ...envelope } = options;
    const nth = (this.#replies.get(claim) ?? 0) + 1;
    const task = claim.messageType === MessageType.TASK_ASSIGNMENT;
    const sent = await this.sendMessage(
      {
        messageId: replyId(claim.messageId, nth),
        messageType: task ? MessageType.TASK_RESPONSE : MessageType.RESPONSE,
        correlationId: claim.correlationId ?? claim.messageId,
        causationId: claim.messageId,
        contextId: claim.contextId ?? undefined,
        taskId: claim.taskId ?? undefined,
        ...envelope,
        fromAgent: claim.toAgent,
        toAgent: claim.replyTo ?? claim.fromAgent,
        content,
      },
      { tx },
    );
    this.#replies.set(claim, nth);
    return sent;
  }
}

function txOf(options: TxOption): Knex.Transaction | undefined {
  if (options === null || typeof options !== "object") {
    throw new ValidationFailed(`options: expected an object, got ${shown(options)}`);
  }
  const { tx, ...rest } = options;
  parse(noOptionsSchema, rest, "options");
  return tx;
}

/** `response-<id>`, `response-<id>-2`, …; hashed where that would be too long for an id. */
function replyId(messageId: string, nth: number): string {
  const plain = `response-${messageId}${nth === 1 ? "" : `-${nth}`}`;
  return plain.length <= 128
    ? plain
    : `response-${createHash("sha256").update(plain).digest("hex")}`;
}
