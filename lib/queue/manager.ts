import type { Knex } from "knex";
import { ValidationFailed } from "../errors.ts";
import type { AgentMessage } from "../protocol/agent-message.ts";
import { encode, LastHead } from "../protocol/envelope.ts";
import { Observers } from "../protocol/events.ts";
import {
  type BatcherOptions,
  batcherSchema,
  type FlowInput,
  flowOf,
  sendOptionsSchema,
} from "../protocol/flow.ts";
import { given } from "../protocol/given.ts";
import type { MessageInput } from "../protocol/message-input.ts";
import {
  cancelOptionsSchema,
  markOptionsSchema,
  messageListSchema,
  type NackOptions,
  nackByIdSchema,
  pauseOptionsSchema,
  type QueueOptions,
  type QueueOptionsInput,
  queueOptionsSchema,
  type ReceiveOptions,
  receiveOptionsSchema,
  type SweepPayloadsOptions,
  sweepPayloadsSchema,
} from "../protocol/options.ts";
import { id, parse, shown } from "../protocol/validate.ts";
import { told } from "../store/after-commit.ts";
import { connect, type DatabaseInput } from "../store/connect.ts";
import { dialectFor } from "../store/dialects.ts";
import { claimedRow } from "../store/rows.ts";
import type { Sent } from "../store/sending.ts";
import {
  type AckOutcome,
  ClaimedMessage,
  type NackOutcome,
  type Settler,
  type TxOption,
} from "./claimed.ts";
import { loadAll } from "./content/load.ts";
import type { SweepReport } from "./content/payloads.ts";
import { QueueCore } from "./core.ts";
import { DeadLetters } from "./dead-letters/dead-letters.ts";
import { causeOf } from "./delivery/lineage.ts";
import { fieldsOf } from "./events.ts";
import { Batcher } from "./flow/batcher.ts";
import { SharedSends } from "./flow/shared-sends.ts";
import { Limits } from "./gates/limits.ts";
import { Mailboxes } from "./gates/mailboxes.ts";
import { OrderingKeys } from "./gates/ordering-keys.ts";
import { findMessage, heldRow } from "./look-up.ts";
import { Topology } from "./routing/topology.ts";
import { Schedules } from "./schedules/schedules.ts";
import { sendMany } from "./sends.ts";
import { settlerOf, txOf } from "./settler.ts";
import type { StoredMessage } from "./stored.ts";
import { Callers, type Consumer, consumersOf } from "./upkeep/presence.ts";
import { type QueueStats, queueStats } from "./upkeep/stats.ts";
import { type UpkeepReport, upkeep } from "./upkeep/upkeep.ts";
import { type Explanation, explain } from "./why/why.ts";
import { newWorkerId } from "./worker/id.ts";
import { Bell, settledWithin } from "./worker/pace.ts";
import { Worker, type WorkHandler, type WorkOptions } from "./worker/worker.ts";

/** `close` waits for the pool no longer than this. */
const LONGEST_DESTROY_MS = 5_000;

/** Longest pause between two looks while `getMessages` waits, in milliseconds. */
const LONGEST_LOOK_MS = 500;

export interface SendOptions extends TxOption {
  /** What it names replaces the queue's `flow` for this call; false: none. Default: the queue's. */
  flow?: FlowInput | false | undefined;
  /** The message that led to this one. Default: the one whose handler sends it, in this process. */
  causedBy?: ClaimedMessage | undefined;
}

/**
 * The durable queue: mailboxes of agents in SQL tables. Every call checks its input before SQL sees it, and
 * every write joins the caller's transaction where `tx` is given.
 */
export class MessageQueueManager {
  readonly #core: QueueCore;
  readonly #owned: boolean;
  readonly #workers = new Set<Worker>();
  readonly #batchers = new Set<Batcher>();
  readonly #workerId = newWorkerId();
  readonly #settler: Settler;
  readonly #callers: Callers;
  readonly #lastHead = new LastHead();
  readonly #sends: SharedSends;
  /** The messages that could not be delivered: list, get, redrive, purge. */
  readonly deadLetters: DeadLetters;
  /** What mailboxes are set to: keys, fairness, aging, breakers, depth. */
  readonly mailboxes: Mailboxes;
  /** How much may be in flight, or pass in a time. */
  readonly limits: Limits;
  /** Ordering keys that a dead letter has halted. */
  readonly orderingKeys: OrderingKeys;
  /** Messages that are sent again and again: set, list, pause, resume, preview, remove. */
  readonly schedules: Schedules;
  /** Who may send to whom. */
  readonly topology: Topology;

  /**
   * @param database a knex instance (never closed by this class), a URL, or a knex configuration
   * @throws ValidationFailed for unknown or wrong options
   */
  constructor(
    database: DatabaseInput,
    options: QueueOptionsInput & { observers?: Observers | undefined } = {},
  ) {
    const { observers, ...rest } = given(options);
    const checked: QueueOptions = parse(queueOptionsSchema, rest, "options");
    const { knex, dialect, owned } = connect(database);
    this.#owned = owned;
    this.#core = new QueueCore(
      knex,
      dialectFor(dialect, checked.prefix, checked.prepare),
      checked,
      observers ?? new Observers(),
    );
    this.#callers = new Callers(this.#core);
    this.deadLetters = new DeadLetters(this.#core);
    this.mailboxes = new Mailboxes(this.#core);
    this.limits = new Limits(this.#core);
    this.orderingKeys = new OrderingKeys(this.#core);
    this.schedules = new Schedules(this.#core);
    this.topology = new Topology(this.#core);
    this.#sends = new SharedSends(this.#core);
    this.#settler = settlerOf(this.#core, (message, options) => this.sendMessage(message, options));
  }

  /** @internal What is set for mailboxes was changed beside the queue: the next call looks at the tables. */
  forgetSettings(): void {
    this.#core.gates.known.forget();
  }

  /** The knex behind the queue, for transactions to send in. */
  get knex(): Knex {
    return this.#core.knex;
  }

  /**
   * Stores one message; it exists if and only if the transaction commits. Calls without a transaction that come
   * while another is under way share a statement and a commit, each with its own result.
   */
  async sendMessage(
    message: MessageInput | AgentMessage,
    options: SendOptions = {},
  ): Promise<Sent> {
    const { tx, flow, causedBy } = this.#sendOptions(options);
    const encoded = encode(message, this.#defaults(causedBy));
    const plain = given(options).flow === undefined && this.#core.options.flow === undefined;
    if (tx === undefined && plain) {
      await this.#core.db();
      const shared = this.#sends.send(encoded);
      if (shared !== undefined) return shared;
    }
    const [sent] = await this.#core.send(await this.#core.db(tx), [encoded], { flow });
    return sent as Sent;
  }

  /** Stores many messages in order, all or none, with a result per message. */
  async sendMessages(
    messages: readonly (MessageInput | AgentMessage)[],
    options: SendOptions = {},
  ): Promise<Sent[]> {
    const list = parse(messageListSchema, messages, "messages");
    const { tx, flow, causedBy } = this.#sendOptions(options);
    const defaults = this.#defaults(causedBy);
    const encoded = (n: number) => encode(list[n], defaults, `messages.${n}`);
    const plain = given(options).flow === undefined && this.#core.options.flow === undefined;
    const whole = tx !== undefined || !plain;
    return sendMany(this.#core, list.length, encoded, { tx, flow, whole });
  }

  /**
   * Collects single sends of this process into one statement and one commit: many times the throughput of as many
   * calls of `sendMessage`, each with its own result. Closed with the queue.
   */
  batcher(options: BatcherOptions = {}): Batcher {
    const checked = parse(batcherSchema, options, "options");
    const batcher = new Batcher(checked, {
      encode: (message) => encode(message, this.#defaults()),
      send: async (messages, flow) => this.#core.send(await this.#core.db(), messages, { flow }),
      flow: flowOf(this.#core.options.flow, checked.flow),
    });
    this.#batchers.add(batcher);
    void batcher.closed.then(() => this.#batchers.delete(batcher));
    return batcher;
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
        this.#callers.seen(request);
        if (rows.length > 0) {
          const claims = rows.map((row) => new ClaimedMessage(row, asked.leaseMs, this.#settler));
          const loaded = claims.every(({ packed }) => packed === null)
            ? claims
            : await loadAll(this.#core, claims, asked.leaseMs);
          const handedOut = await this.#core.delivery.handOut(loaded);
          if (handedOut.length > 0) return handedOut;
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
   * when it did not, and nothing was changed, or when its inbox says that it was processed before (EXACTLY_ONCE),
   * and it was dropped.
   */
  async markProcessed(
    messageId: string,
    agentId: string,
    options: { receipt?: number | undefined } & TxOption = {},
  ): Promise<boolean> {
    const { tx, ...rest } = given(options);
    const message = parse(id, messageId, "messageId");
    const agent = parse(id, agentId, "agentId");
    const { receipt } = parse(markOptionsSchema, rest, "options");
    const db = await this.#core.db(tx);
    const row = await heldRow(this.#core, db, message, agent, receipt);
    if (row === undefined) return false;
    return this.#core.delivery.markProcessed(db, row);
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
    const { tx, ...rest } = given(options);
    const message = parse(id, messageId, "messageId");
    const agent = parse(id, agentId, "agentId");
    const { receipt, ...nack } = parse(nackByIdSchema, rest, "options");
    const db = await this.#core.db(tx);
    const row = await heldRow(this.#core, db, message, agent, receipt);
    if (row === undefined) {
      const rows = await this.#core.store.live(db, message);
      return rows.some((live) => live.to_agent === agent) ? "stale" : "gone";
    }
    const claim = claimedRow(row, this.#core.store.parseJson);
    return this.#settler.nack(new ClaimedMessage(claim, 0, this.#settler), error, { ...nack, tx });
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
    const { tx, ...rest } = given(options);
    const message = parse(id, messageId, "messageId");
    const { toAgent } = parse(cancelOptionsSchema, rest, "options");
    const db = await this.#core.db(tx);
    const rows = await this.#core.store.cancel(db, message, toAgent);
    if (!this.#core.store.archives) this.#core.payloads.releaseRows(db, rows);
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
    return findMessage(this.#core, db, message);
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
    return queueStats(this.#core, db, agent);
  }

  /** What exactly keeps a message from being delivered, per recipient, and the remedy. */
  async why(messageId: string): Promise<Explanation[]> {
    return explain(this.#core, parse(id, messageId, "messageId"));
  }

  /** Who consumes a mailbox, or any; who was seen last first, at most 1,000. Those not seen for a day are forgotten. */
  async consumers(agentId?: string): Promise<Consumer[]> {
    const agent = agentId === undefined ? null : parse(id, agentId, "agentId");
    await this.#core.db();
    return consumersOf(this.#core, agent);
  }

  /**
   * One bounded round of upkeep, as workers take it every few seconds: expired and due messages, what was kept long
   * enough, keys that stand still, and more. A step that fails is in `failed` and stops no other.
   */
  async maintain(): Promise<UpkeepReport> {
    await this.#core.db();
    return upkeep(this.#core);
  }

  /**
   * Deletes contents in the claim-check store that no message refers to. Workers do it too, about hourly.
   *
   * @throws AgentCommunicationError INVALID_CONFIGURATION without a store that can list its keys
   */
  async sweepPayloads(options: SweepPayloadsOptions = {}): Promise<SweepReport> {
    const asked = parse(sweepPayloadsSchema, options, "options");
    await this.#core.db();
    return this.#core.payloads.sweep(asked);
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
    await Promise.all([...this.#batchers].map((batcher) => batcher.close()));
    await Promise.all([this.#sends.idle(), this.#core.store.idle()]);
    await this.#callers.close();
    await told();
    await this.#core.close();
    // A pool waits for every connection that is in use; one whose server is silent would keep it for ever.
    if (this.#owned) await settledWithin(LONGEST_DESTROY_MS, this.#core.knex.destroy());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #sendOptions(options: SendOptions) {
    const { tx, causedBy, ...rest } = given(options);
    // Mostly nothing is left, and the schema would take a good part of a lone send's time to say so.
    const some = Object.keys(rest).length > 0;
    const flow = some ? parse(sendOptionsSchema, rest, "options").flow : undefined;
    return { tx, causedBy, flow: flowOf(this.#core.options.flow, flow) };
  }

  #defaults(causedBy?: ClaimedMessage) {
    const { options } = this.#core;
    const { agentId, retryPolicy, retryPolicies, maxMessageBytes, claimCheck } = options;
    return {
      cause: causeOf(causedBy),
      loops: options,
      fromAgent: agentId,
      maxAttempts: retryPolicy.maxAttempts,
      retryPolicies,
      maxMessageBytes,
      maxContentBytes: claimCheck?.maxBytes,
      lastHead: this.#lastHead,
    };
  }
}
