import type { Knex } from "knex";
import type { AgentFilter, AgentInfo, AgentStatus, Registration } from "../protocol/agents.ts";
import { type CapabilityRow, detailsOf, namesOf } from "../protocol/declarations.ts";
import {
  type AgentStatements,
  agentStatements,
  countLive,
  isFresh,
  liveTasks,
} from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import { int, isTransaction, query, type Row, retried, transaction, translated } from "./sql.ts";

/** A registration whose JSON was written by the caller. */
export type AgentRow = Omit<Registration, "metadata"> & { readonly metadataText: string };

/** Two processes may register one agent in the same moment; the second then finds the row of the first. */
const MOST_TRIES = 3;

/** Agents and what they can do. Load is counted from live tasks; freshness is by the database's clock. */
export class AgentStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #agents: string;
  readonly #capabilities: string;
  readonly #statements: AgentStatements;
  readonly #tasks: string;
  readonly #live: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#agents = `${prefix}agents`;
    this.#capabilities = `${prefix}agent_capabilities`;
    this.#statements = agentStatements(dialect.name, prefix, dialect.now);
    this.#tasks = `${prefix}tasks`;
    this.#live = liveTasks(prefix);
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
      max_concurrent_tasks: agent.maxConcurrentTasks,
      stale_after_ms: agent.staleAfterMs,
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
    return known.length === 0;
  }

  async #replaceCapabilities(trx: Db, agent: AgentRow): Promise<void> {
    const agentId = { agent_id: agent.agentId };
    const keys = ["capability", "kind", "sort_key"];
    const rows = (await trx(this.#capabilities)
      .where(agentId)
      .select(...keys, "value")) as Row[];
    const wanted = new Map(agent.capabilities.map((row) => [JSON.stringify(written(row)), row]));
    // A version that is written in another way sorts as before, but is shown as it was written.
    const lost = rows.filter((row) => !wanted.delete(JSON.stringify(readBack(row))));
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

  /** Notes a sign of life. Returns the status that it has now, or undefined for an unknown agent. */
  async heartbeat(
    db: Db,
    agentId: string,
    status: AgentStatus | undefined,
    metrics: Readonly<Record<string, unknown>> | undefined,
  ): Promise<{ status: AgentStatus; heartbeatAt: number } | undefined> {
    const beat = async (trx: Db): Promise<Row | undefined> => {
      const [row] = (await this.#known(trx, agentId).update(
        {
          heartbeat_at: trx.raw(this.#dialect.now),
          lost_at: null,
          status: this.#statusAfter(trx, status),
        },
        ["status", "heartbeat_at"],
      )) as Row[];
      return row;
    };
    return translated(this.#dialect, async () => {
      const row = await (metrics === undefined && !isTransaction(db)
        ? retried(this.#dialect, () => beat(db))
        : transaction(this.#dialect, db, async (trx) => {
            const beaten = await beat(trx);
            if (beaten === undefined || metrics === undefined) return beaten;
            // The update holds the row, so nothing that another heartbeat merges is lost. Read in a statement of
            // its own, which sees what was committed while the update waited, on every server.
            const row = (await this.#known(trx, agentId).select("metrics").first()) as
              | Row
              | undefined;
            const merged = merge(this.#statements.json(row?.metrics), metrics);
            await this.#known(trx, agentId).update({ metrics: JSON.stringify(merged) });
            return beaten;
          }));
      return row === undefined
        ? undefined
        : { status: row.status as AgentStatus, heartbeatAt: int(row.heartbeat_at) };
    });
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

  /** False for an unknown agent. */
  async setStatus(agentId: string, status: AgentStatus, db: Db = this.#knex): Promise<boolean> {
    const update = async () => {
      const changed = (await this.#known(db, agentId).update({ status }, ["agent_id"])) as Row[];
      return changed.length > 0;
    };
    return translated(this.#dialect, () =>
      isTransaction(db) ? update() : retried(this.#dialect, update),
    );
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
        // After the update above no supervisor can assign to it any more, so the count is final.
        if ((await countLive(trx, this.#tasks, agentId)) === 0) {
          await trx(this.#agents).where({ agent_id: agentId }).del();
        }
        return true;
      }),
    );
  }

  async get(agentId: string, db: Db = this.#knex): Promise<AgentInfo | undefined> {
    const [agent] = await this.#select(db, (agents) => agents.where("a.agent_id", agentId));
    return agent;
  }

  /** By id, from after `filter.after` on. */
  async list(filter: AgentFilter): Promise<AgentInfo[]> {
    return this.#select(this.#knex, (agents) => {
      if (filter.status !== undefined) agents.where("a.status", filter.status);
      if (filter.role !== undefined) agents.where("a.role", filter.role);
      if (filter.after !== undefined) agents.where("a.agent_id", ">", filter.after);
      if (filter.capability !== undefined) {
        agents.whereIn(
          "a.agent_id",
          this.#knex(this.#capabilities).select("agent_id").where("capability", filter.capability),
        );
      }
      return agents.limit(filter.limit);
    });
  }

  async #select(
    db: Db,
    narrow: (agents: Knex.QueryBuilder) => Knex.QueryBuilder,
  ): Promise<AgentInfo[]> {
    return translated(this.#dialect, async () => {
      const builder = db({ a: this.#agents })
        .select(
          "a.*",
          db.raw(`${this.#live} AS live`),
          db.raw(`${this.#statements.capabilities} AS capabilities`),
          db.raw(`CASE WHEN ${isFresh(this.#dialect.now)} THEN 1 ELSE 0 END AS fresh`),
        )
        .whereNot("a.status", "removed")
        .orderBy("a.agent_id");
      const rows = (await narrow(builder)) as Row[];
      return rows.map((row) => this.#info(row, int(row.fresh) === 1));
    });
  }

  /** Agents with all these capabilities and room for a task, the least loaded first. One statement. */
  async findAvailable(
    capabilities: readonly string[],
    limit: number,
    db: Db = this.#knex,
  ): Promise<AgentInfo[]> {
    return translated(this.#dialect, async () => {
      const rows =
        capabilities.length === 0
          ? await query(db, this.#statements.findAnyAvailable, { limit })
          : await query(db, this.#statements.findAvailable, {
              needs: JSON.stringify(capabilities),
              needed: capabilities.length,
              limit,
            });
      return rows.map((row) => this.#info(row, true));
    });
  }

  #info(row: Row, fresh: boolean): AgentInfo {
    const live = int(row.live);
    const most = int(row.max_concurrent_tasks);
    const status = row.status as AgentStatus;
    const lastAssignedAt = int(row.last_assigned_at);
    const json = this.#statements.json;
    const capabilities = ((json(row.capabilities) ?? []) as Row[]).map(capabilityRow);
    return {
      agentId: String(row.agent_id),
      role: String(row.role),
      capabilities: namesOf(capabilities),
      capabilityDetails: detailsOf(capabilities),
      status,
      lost: !fresh,
      available: fresh && live < most && status !== "draining" && status !== "offline",
      currentTasks: live,
      maxConcurrentTasks: most,
      load: most === 0 ? 1 : live / most,
      metadata: (json(row.metadata) ?? {}) as Record<string, unknown>,
      metrics: (json(row.metrics) ?? {}) as Record<string, unknown>,
      registeredAt: int(row.registered_at),
      heartbeatAt: int(row.heartbeat_at),
      staleAfterMs: int(row.stale_after_ms),
      lastAssignedAt: lastAssignedAt === 0 ? null : lastAssignedAt,
    };
  }
}

function written({ capability, kind, sortKey, value }: CapabilityRow): Row {
  return { capability, kind, sort_key: sortKey, value };
}

function readBack({ capability, kind, sort_key, value }: Row): Row {
  return { capability, kind, sort_key, value };
}

function capabilityRow(row: Row): CapabilityRow {
  return {
    capability: String(row.capability),
    kind: row.kind as CapabilityRow["kind"],
    sortKey: String(row.sort_key),
    value: (row.value as string | null | undefined) ?? null,
  };
}

/** Key by key; null takes a key away. */
function merge(before: unknown, news: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const merged = { ...((before ?? {}) as Record<string, unknown>), ...news };
  return Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== null));
}
