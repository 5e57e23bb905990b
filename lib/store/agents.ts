import type { Knex } from "knex";
import type { AgentFilter, AgentInfo, AgentStatus, Registration } from "../protocol/agents.ts";
import { type AgentCard, documentOf, exceeded } from "../protocol/cards.ts";
import type { CapabilityRow } from "../protocol/declarations.ts";
import { AgentHistory, hashOf } from "./agent-history.ts";
import { AgentReads } from "./agent-reads.ts";
import { type AgentStatements, agentStatements, countLive } from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import { int, isTransaction, type Row, retried, transaction, translated } from "./sql.ts";

/** A registration whose JSON was written by the caller. */
export type AgentRow = Omit<Registration, "metadata"> & { readonly metadataText: string };

/** What a sign of life found. */
export interface Beat {
  readonly status: AgentStatus;
  readonly heartbeatAt: number;
  readonly staleAfterMs: number;
  /** It came back: from being lost, offline or above its limits. */
  readonly returned: boolean;
  /** What it began to drain for in this moment. */
  readonly above: Readonly<Record<string, number>> | undefined;
}

/** Two processes may register one agent in the same moment; the second then finds the row of the first. */
const MOST_TRIES = 3;

/** Agents and what they can do. */
export class AgentStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #agents: string;
  readonly #capabilities: string;
  readonly #statements: AgentStatements;
  readonly #tasks: string;
  readonly #reads: AgentReads;
  readonly history: AgentHistory;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#agents = `${prefix}agents`;
    this.#capabilities = `${prefix}agent_capabilities`;
    this.#statements = agentStatements(dialect.name, prefix, dialect.now);
    this.#tasks = `${prefix}tasks`;
    this.#reads = new AgentReads(knex, dialect, prefix);
    this.history = new AgentHistory(knex, dialect, prefix);
  }

  get(agentId: string, db?: Db): Promise<AgentInfo | undefined> {
    return this.#reads.get(agentId, db);
  }

  list(filter: AgentFilter): Promise<AgentInfo[]> {
    return this.#reads.list(filter);
  }

  some(ids: readonly string[], db?: Db): Promise<AgentInfo[]> {
    return this.#reads.some(ids, db);
  }

  /** Stores the agent with exactly these capabilities, as alive now. True when it was not there before. */
  async register(agent: AgentRow): Promise<boolean> {
    return translated(this.#dialect, async () => {
      for (let tries = 1; ; tries++) {
        try {
          return await transaction(this.#dialect, this.#knex, (trx) => this.#register(trx, agent));
        } catch (error) {
          if (tries >= MOST_TRIES || this.#dialect.classify(error) !== "unique") throw error;
        }
      }
    });
  }

  async #register(trx: Db, agent: AgentRow): Promise<boolean> {
    const values = {
      role: agent.role,
      status: "active",
      drained_by: null,
      max_concurrent_tasks: agent.maxConcurrentTasks,
      stale_after_ms: agent.staleAfterMs,
      weight: agent.weight,
      metadata: agent.metadataText,
      heartbeat_at: trx.raw(this.#dialect.now),
      lost_at: null,
    };
    const agentId = { agent_id: agent.agentId };
    const known = (await trx(this.#agents)
      .where(agentId)
      .whereNot("status", "removed")
      .update(values, ["agent_id"])) as Row[];
    if (known.length === 0) {
      // It may be waiting for its tasks to be taken away: then it simply keeps them.
      const back = (await trx(this.#agents).where(agentId).update(values, ["agent_id"])) as Row[];
      if (back.length === 0) {
        const registered_at = trx.raw(this.#dialect.now);
        await trx(this.#agents).insert({
          ...agentId,
          ...values,
          registered_at,
          last_assigned_at: 0,
        });
      }
    }
    await this.#replaceCapabilities(trx, agent);
    await this.#noteCard(trx, agent, known.length === 0);
    return known.length === 0;
  }

  async #replaceCapabilities(trx: Db, agent: AgentRow): Promise<void> {
    const agentId = { agent_id: agent.agentId };
    const rows = (await trx(this.#capabilities)
      .where(agentId)
      .select("capability", "kind", "sort_key", "value")) as Row[];
    const wanted = new Map(agent.capabilities.map((row) => [JSON.stringify(written(row)), row]));
    // A version that is written in another way sorts as before, but is shown as it was written.
    const lost = rows.filter(
      ({ capability, kind, sort_key, value }) =>
        !wanted.delete(JSON.stringify({ capability, kind, sort_key, value })),
    );
    for (const { capability, kind, sort_key } of lost) {
      await trx(this.#capabilities)
        .where({ ...agentId, capability, kind, sort_key })
        .del();
    }
    const fresh = [...wanted.values()].map((row) => ({ ...agentId, ...written(row) }));
    // Five columns each: below the most bindings that a statement may have anywhere.
    for (let from = 0; from < fresh.length; from += 100) {
      await trx(this.#capabilities).insert(fresh.slice(from, from + 100));
    }
  }

  /** Keeps what the agent says of itself, with an entry in its history where that is new. */
  async #noteCard(trx: Db, agent: AgentRow, created: boolean): Promise<void> {
    const agentId = { agent_id: agent.agentId };
    const row = (await trx(this.#agents).where(agentId).select("card", "card_hash").first()) as Row;
    const before = created ? null : (this.#statements.json(row.card) as AgentCard | null);
    const card = agent.card === undefined ? before : agent.card;
    const document = documentOf(agent, agent.capabilities, card);
    const hash = hashOf(document);
    if (created) await this.history.stay(trx, agent.agentId);
    if (created || hash !== row.card_hash) {
      await trx(this.#agents)
        .where(agentId)
        .update({
          card: card === null ? null : JSON.stringify(card),
          card_hash: hash,
          lifecycle: card?.lifecycle ?? "active",
          needs_agents:
            card?.requireDependencies === true && card.dependencies.length > 0
              ? JSON.stringify(card.dependencies)
              : null,
        });
      const event = created ? "registered" : "card";
      await this.history.note(trx, agent.agentId, event, {}, document);
    }
    if (!created) await this.history.noteState(trx, agent.agentId, "active");
  }

  /**
   * Notes a sign of life; undefined for an unknown agent. With `look` also its history, where its state is another
   * one than was noted last: a plain heartbeat writes one row and nothing else.
   */
  async heartbeat(
    db: Db,
    agentId: string,
    status: AgentStatus | undefined,
    metrics: Readonly<Record<string, unknown>> | undefined,
    look = true,
  ): Promise<Beat | undefined> {
    const beat = async (trx: Db): Promise<Row | undefined> => {
      const [row] = (await this.#known(trx, agentId).update(
        {
          heartbeat_at: trx.raw(this.#dialect.now),
          lost_at: null,
          status: this.#statusAfter(trx, status),
          // What it wishes itself is not undone when it falls below its limits.
          ...(status === "draining" || status === "offline" ? { drained_by: null } : {}),
        },
        ["status", "heartbeat_at", "stale_after_ms", "drained_by"],
      )) as Row[];
      return row;
    };
    return translated(this.#dialect, async () => {
      if (metrics === undefined && !look) {
        const row = await (isTransaction(db) ? beat(db) : retried(this.#dialect, () => beat(db)));
        return row && beatOf(row, row.status as AgentStatus, false, undefined);
      }
      return transaction(this.#dialect, db, async (trx) => {
        const row = await beat(trx);
        if (row === undefined) return undefined;
        const merged = metrics && (await this.#merge(trx, agentId, row, metrics));
        const after = merged?.status ?? (row.status as AgentStatus);
        const event = after === "draining" || after === "offline" ? after : "active";
        const above = merged?.above;
        const news =
          (look || merged?.status !== undefined) &&
          (await this.history.noteState(trx, agentId, event, above));
        return beatOf(row, after, news && event === "active", above);
      });
    });
  }

  /**
   * Merges the metrics, and drains the agent where they are above the limits of its card, until they no longer
   * are. The heartbeat holds the row, so nothing that another one merges is lost. Read in a statement of its own,
   * which sees what was committed while the heartbeat waited, on every server.
   */
  async #merge(
    trx: Db,
    agentId: string,
    { status, drained_by }: Row,
    metrics: Readonly<Record<string, unknown>>,
  ): Promise<{ status?: AgentStatus; above?: Record<string, number> }> {
    const row = (await this.#known(trx, agentId).select("metrics", "card").first()) as
      | Row
      | undefined;
    const merged = merge(this.#statements.json(row?.metrics), metrics);
    const { limits } = (this.#statements.json(row?.card) ?? {}) as Partial<AgentCard>;
    const above = limits && exceeded(limits, merged);
    const change =
      above !== undefined && status !== "draining" && status !== "offline"
        ? { status: "draining" as const, drained_by: "limits" }
        : above === undefined && status === "draining" && drained_by === "limits"
          ? { status: "active" as const, drained_by: null }
          : {};
    await this.#known(trx, agentId).update({ metrics: JSON.stringify(merged), ...change });
    if (change.status === undefined) return {};
    return { status: change.status, ...(above === undefined ? {} : { above }) };
  }

  /** An operator's drain outlasts the "active" that the agent goes on reporting. */
  #statusAfter(db: Db, status: AgentStatus | undefined): Knex.Raw {
    if (status === undefined) {
      return db.raw("CASE WHEN status = 'offline' THEN 'active' ELSE status END");
    }
    if (status === "draining" || status === "offline") return db.raw("?", [status]);
    return db.raw("CASE WHEN status = 'draining' THEN status ELSE ? END", [status]);
  }

  #known(db: Db, agentId: string): Knex.QueryBuilder {
    return db(this.#agents).where({ agent_id: agentId }).whereNot("status", "removed");
  }

  /** What an operator wishes. False for an unknown agent. */
  async setStatus(
    agentId: string,
    status: "active" | "draining",
    db: Db = this.#knex,
  ): Promise<boolean> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, db, async (trx) => {
        const changed = (await this.#known(trx, agentId).update({ status, drained_by: null }, [
          "agent_id",
        ])) as Row[];
        if (changed.length === 0) return false;
        await this.history.noteState(trx, agentId, status);
        return true;
      }),
    );
  }

  /** How many tasks it has that have not ended; undefined for an unknown agent. */
  async live(agentId: string): Promise<number | undefined> {
    return translated(this.#dialect, async () => {
      const known = await this.#known(this.#knex, agentId).select("agent_id").first();
      return known === undefined ? undefined : countLive(this.#knex, this.#tasks, agentId);
    });
  }

  /**
   * Takes an agent away. One that still has tasks leaves the registry at once, and its row when a supervisor
   * has given the tasks to others. False for an unknown agent.
   */
  async remove(agentId: string): Promise<boolean> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const marked = (await this.#known(trx, agentId).update(
          { status: "removed", heartbeat_at: 0, lost_at: null },
          ["agent_id"],
        )) as Row[];
        if (marked.length === 0) return false;
        await trx(this.#capabilities).where({ agent_id: agentId }).del();
        await this.history.leave(trx, agentId);
        // After the update above no supervisor can assign to it any more, so the count is final.
        if ((await countLive(trx, this.#tasks, agentId)) === 0) {
          await trx(this.#agents).where({ agent_id: agentId }).del();
        }
        return true;
      }),
    );
  }
}

function beatOf(
  row: Row,
  status: AgentStatus,
  returned: boolean,
  above: Readonly<Record<string, number>> | undefined,
): Beat {
  return {
    status,
    heartbeatAt: int(row.heartbeat_at),
    staleAfterMs: int(row.stale_after_ms),
    returned,
    above,
  };
}

function written({ capability, kind, sortKey, value }: CapabilityRow): Row {
  return { capability, kind, sort_key: sortKey, value };
}

/** Key by key; null takes a key away. */
function merge(before: unknown, news: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const merged = { ...((before ?? {}) as Record<string, unknown>), ...news };
  return Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== null));
}
