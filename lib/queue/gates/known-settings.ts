import { type EncodedMessage, type Head, headsOf } from "../../protocol/envelope.ts";
import type { TopologySettings } from "../../protocol/topology.ts";
import type { Db } from "../../store/dialect.ts";
import type { Limit, Mailbox } from "../../store/gate-rows.ts";
import type { GateSettings } from "../../store/gate-settings.ts";
import { EVERY_MAILBOX, type GateStore } from "../../store/gates.ts";
import type { Placing } from "../../store/message-rows.ts";
import { translated } from "../../store/sql.ts";

/**
 * How old what this process knows of the settings may be. A mailbox that got a gate meanwhile gives nothing to a
 * claim that does not go through it, so this costs time and never correctness; an idle process asks that often.
 */
const FRESH_MS = 3_000;
/** What is older than this is looked for again beside the calls, so that none of them waits for it. */
const RENEWED_MS = 2_000;
/** And a little later than the call that found it so old, which is rather to have the processor for itself. */
const RENEWED_AFTER_MS = 25;

interface Known {
  readonly at: number;
  readonly mailboxes: ReadonlyMap<string, Mailbox>;
  readonly limits: readonly Limit[];
}

/** What is set for mailboxes, as far as senders and claims of this process must know. */
export class KnownSettings {
  readonly #store: GateStore;
  readonly #settings: GateSettings;
  /** The last look, however old. */
  #known: Known | undefined;
  #looking: Promise<Known> | undefined;
  #renewing: NodeJS.Timeout | undefined;
  /** Counts what was set here. */
  #changes = 0;

  constructor(store: GateStore, settings: GateSettings) {
    this.#store = store;
    this.#settings = settings;
  }

  /** Whether it is known, without a look, that nothing is set anywhere. */
  get nothing(): boolean {
    const known = this.#fresh();
    return known !== undefined && known.mailboxes.size === 0 && known.limits.length === 0;
  }

  #fresh(): Known | undefined {
    if (this.#known === undefined) return undefined;
    const age = performance.now() - this.#known.at;
    if (age >= FRESH_MS) return undefined;
    if (age >= RENEWED_MS) this.#renew();
    return this.#known;
  }

  #renew(): void {
    if (this.#looking !== undefined) return;
    this.#renewing ??= setTimeout(() => {
      this.#renewing = undefined;
      // Whoever needs it hears of what keeps it from being looked for.
      this.#lookOnce().catch(() => undefined);
    }, RENEWED_AFTER_MS).unref();
  }

  /** What is set, as of three seconds ago at most. */
  async all(db: Db): Promise<Known> {
    const known = this.#fresh();
    if (known !== undefined) return known;
    // A transaction looks for itself: on SQLite it has the only connection.
    if (db !== this.#store.knex) return this.#look(db);
    return this.#lookOnce();
  }

  #lookOnce(): Promise<Known> {
    this.#looking ??= this.#look(this.#store.knex).finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  async #look(db: Db): Promise<Known> {
    const at = performance.now();
    const changes = this.#changes;
    const { mailboxes, limits } = await translated(this.#store.dialect, async () => {
      const configured = await this.#store.configured(db);
      // A limit is about a mailbox that has a gate, or about all.
      const gated = configured.some((mailbox) => mailbox.gated === 1);
      return { mailboxes: configured, limits: gated ? await this.#store.limits(db) : [] };
    });
    const byId = new Map(mailboxes.map((mailbox) => [mailbox.agentId, mailbox]));
    // What was set meanwhile may be missing.
    const since = changes === this.#changes ? at : Number.NEGATIVE_INFINITY;
    this.#known = { at: since, mailboxes: byId, limits };
    return this.#known;
  }

  /** Something was set here: the next call looks at the tables. */
  forget(): void {
    this.#changes += 1;
    if (this.#known !== undefined) this.#known = { ...this.#known, at: Number.NEGATIVE_INFINITY };
  }

  /** Whether claims of a mailbox go through the gate, as far as is known without a look. */
  guards(agentId: string): boolean {
    const mailboxes = this.#known?.mailboxes;
    return mailboxes?.get(EVERY_MAILBOX)?.gated === 1 || mailboxes?.get(agentId)?.gated === 1;
  }

  /** Whether something is set for all mailboxes together, as far as is known without a look. */
  limitsAll(): boolean {
    return this.#known?.mailboxes.get(EVERY_MAILBOX)?.gated === 1;
  }

  /** Who may send to whom; null: everybody to everybody. */
  async topology(db: Db): Promise<TopologySettings | null> {
    return (await this.all(db)).mailboxes.get(EVERY_MAILBOX)?.topology ?? null;
  }

  async hasBreaker(agentId: string): Promise<boolean> {
    const { mailboxes } = await this.all(this.#store.knex);
    return (mailboxes.get(agentId)?.breaker ?? null) !== null;
  }

  /** Mailboxes among the recipients that refuse messages while their breaker is open. */
  async refusing(db: Db, messages: readonly EncodedMessage[]): Promise<string[]> {
    const { mailboxes } = await this.all(db);
    if (mailboxes.size === 0) return [];
    const agents = new Set(headsOf(messages).flatMap(({ toAgent }) => toAgent));
    return [...agents].filter((agent) => mailboxes.get(agent)?.breaker?.whenOpen === "fail");
  }

  /** Where messages go within their mailboxes; undefined when nothing is set that a sender must know of. */
  async placing(db: Db, messages: readonly EncodedMessage[]): Promise<Placing | undefined> {
    const known = await this.all(db);
    const { mailboxes } = known;
    const heads = headsOf(messages);
    const shares = heads.some(({ concurrencyKey }) => concurrencyKey !== undefined);
    if (mailboxes.size === 0 && known.limits.length === 0 && !shares) return undefined;
    if (shares) await this.#promoting(db, heads, mailboxes);
    return {
      laneOf: (messageType, toAgent) => laneOf(known.limits, messageType, toAgent),
      agingMs: (toAgent) => mailboxes.get(toAgent)?.agingMs ?? null,
      fair: (toAgent) => mailboxes.get(toAgent)?.fair ?? false,
    };
  }

  /** Notes, once per mailbox, that due messages of its concurrency keys are to be promoted. */
  async #promoting(
    db: Db,
    heads: readonly Head[],
    mailboxes: ReadonlyMap<string, Mailbox>,
  ): Promise<void> {
    const agents = heads.flatMap(({ concurrencyKey, toAgent }) =>
      concurrencyKey === undefined ? [] : toAgent,
    );
    for (const agentId of [...new Set(agents)].sort()) {
      if ((mailboxes.get(agentId)?.gated ?? null) !== null) continue;
      await this.#settings.notePromoting(db, agentId);
      this.forget();
    }
  }

  /** Whether claims of a mailbox go through the gate: always, never, or only its concurrency keys' due messages. */
  async wayOf(agentId: string): Promise<"plain" | "promote" | "gated"> {
    const { mailboxes } = await this.all(this.#store.knex);
    if (mailboxes.get(EVERY_MAILBOX)?.gated === 1) return "gated";
    const gated = mailboxes.get(agentId)?.gated;
    return gated === 1 ? "gated" : gated === 0 ? "promote" : "plain";
  }
}

/** The lane of a message: that of its type, where a limit is about the type. */
function laneOf(limits: readonly Limit[], messageType: string, toAgent: string): string {
  const limited = limits.some(
    (limit) =>
      limit.messageType === messageType &&
      limit.removedAt === null &&
      (limit.agentId === undefined || limit.agentId === toAgent),
  );
  return limited ? messageType : "";
}
