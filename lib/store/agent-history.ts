import { createHash } from "node:crypto";
import type { Knex } from "knex";
import {
  type AgentHistoryEntry,
  type AgentHistoryEvent,
  type CardDocument,
  canonicalJson,
} from "../protocol/cards.ts";
import { agentStatements } from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import type { ParseJson } from "./rows.ts";
import { int, type Row, translated } from "./sql.ts";

/** How many changes of its card, and how many others, are kept of an agent. */
const MOST_KEPT = 100;
const DAY_MS = 86_400_000;
/** How long the history of an agent that was taken away is kept, and how much of it goes in one step. */
const GONE_DAYS = 30;
const PURGED = 200;

export function hashOf(document: CardDocument): string {
  return createHash("sha256").update(canonicalJson(document)).digest("hex");
}

/** What happened to agents. Written in the transaction of what happened, by whoever holds the agent's row. */
export class AgentHistory {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #json: ParseJson;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}agent_history`;
    this.#json = agentStatements(dialect.name, prefix, dialect.now).json;
  }

  async note(
    trx: Db,
    agentId: string,
    event: AgentHistoryEvent,
    data: Readonly<Record<string, unknown>> = {},
    document?: CardDocument,
  ): Promise<void> {
    await trx(this.#table).insert({
      agent_id: agentId,
      event,
      at: trx.raw(this.#dialect.now),
      data: JSON.stringify(data),
      card: document === undefined ? null : JSON.stringify(document),
      card_hash: document === undefined ? null : hashOf(document),
    });
    const kind = () => this.#of(trx, agentId, document !== undefined);
    const [last] = (await kind()
      .orderBy("seq", "desc")
      .offset(MOST_KEPT)
      .limit(1)
      .select("seq")) as Row[];
    if (last !== undefined) await kind().where("seq", "<=", int(last.seq)).del();
  }

  /** Notes that an agent is now in a state, unless that is what was noted last. True when it is new. */
  async noteState(
    trx: Db,
    agentId: string,
    event: "active" | "draining" | "offline",
    data: Readonly<Record<string, unknown>> = {},
  ): Promise<boolean> {
    const [last] = (await trx(this.#table)
      .where({ agent_id: agentId })
      .whereNot("event", "card")
      .orderBy("seq", "desc")
      .limit(1)
      .select("event")) as Row[];
    const before = last?.event === "registered" ? "active" : (last?.event ?? "active");
    if (before === event) return false;
    await this.note(trx, agentId, event, data);
    return true;
  }

  /** The agent was taken away: its history stays for a while. */
  async leave(trx: Db, agentId: string): Promise<void> {
    await this.note(trx, agentId, "deregistered");
    await trx(this.#table)
      .where({ agent_id: agentId })
      .update({ gone_at: trx.raw(this.#dialect.now) });
    const old = (await trx(this.#table)
      .whereNotNull("gone_at")
      .whereRaw(`gone_at < ${this.#dialect.now} - ${GONE_DAYS * DAY_MS}`)
      .orderBy("gone_at")
      .limit(PURGED)
      .select("seq")) as Row[];
    if (old.length === 0) return;
    const seqs = old.map(({ seq }) => int(seq));
    await trx(this.#table).whereIn("seq", seqs).del();
  }

  /** The agent came again. */
  async stay(trx: Db, agentId: string): Promise<void> {
    await trx(this.#table)
      .where({ agent_id: agentId })
      .whereNotNull("gone_at")
      .update({ gone_at: null });
  }

  /** The newest first. */
  async list(
    agentId: string,
    filter: {
      readonly limit: number;
      readonly cards: boolean;
      readonly before?: number | undefined;
    },
  ): Promise<AgentHistoryEntry[]> {
    return translated(this.#dialect, async () => {
      const rows = this.#knex(this.#table).where({ agent_id: agentId });
      if (filter.cards) rows.whereNotNull("card_hash");
      if (filter.before !== undefined) rows.where("seq", "<", filter.before);
      const found = (await rows.orderBy("seq", "desc").limit(filter.limit).select("*")) as Row[];
      return found.map((row) => ({
        seq: int(row.seq),
        agentId: String(row.agent_id),
        event: row.event as AgentHistoryEvent,
        at: int(row.at),
        data: (this.#json(row.data) ?? {}) as Record<string, unknown>,
        card: this.#json(row.card) as CardDocument | null,
        cardHash: (row.card_hash as string | null) ?? null,
      }));
    });
  }

  #of(trx: Db, agentId: string, cards: boolean): Knex.QueryBuilder {
    const rows = trx(this.#table).where({ agent_id: agentId });
    return cards ? rows.whereNotNull("card_hash") : rows.whereNull("card_hash");
  }
}
