import type { Knex } from "knex";
import type { AgentFilter, AgentInfo, AgentState, AgentStatus } from "../protocol/agents.ts";
import type { AgentCard } from "../protocol/cards.ts";
import { type CapabilityRow, detailsOf, namesOf } from "../protocol/declarations.ts";
import { type AgentStatements, agentStatements, isFresh, liveTasks } from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import { int, type Row, translated } from "./sql.ts";

/** How many ids one statement asks for: below the most bindings that it may have anywhere. */
const PAGE = 500;

/** What is known of agents, for those who look. Load is summed over live tasks; freshness is by the database's clock. */
export class AgentReads {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #prefix: string;
  readonly #statements: AgentStatements;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#prefix = prefix;
    this.#statements = agentStatements(dialect.name, prefix, dialect.now);
  }

  async get(agentId: string, db: Db = this.#knex): Promise<AgentInfo | undefined> {
    const [agent] = await this.#select(db, (agents) => agents.where("a.agent_id", agentId));
    return agent;
  }

  /** By id, from after `filter.after` on. */
  async list(filter: AgentFilter): Promise<AgentInfo[]> {
    const able = `${this.#prefix}agent_capabilities`;
    return this.#select(this.#knex, (agents) => {
      if (filter.status !== undefined) agents.where("a.status", filter.status);
      if (filter.role !== undefined) agents.where("a.role", filter.role);
      if (filter.after !== undefined) agents.where("a.agent_id", ">", filter.after);
      if (filter.capability !== undefined) {
        agents.whereIn(
          "a.agent_id",
          this.#knex(able).select("agent_id").where("capability", filter.capability),
        );
      }
      return agents.limit(filter.limit);
    });
  }

  /** Those of these agents that are there, in the order of the ids. */
  async some(ids: readonly string[], db: Db = this.#knex): Promise<AgentInfo[]> {
    const found = new Map<string, AgentInfo>();
    for (let from = 0; from < ids.length; from += PAGE) {
      const page = ids.slice(from, from + PAGE);
      for (const agent of await this.#select(db, (agents) => agents.whereIn("a.agent_id", page))) {
        found.set(agent.agentId, agent);
      }
    }
    return ids.flatMap((id) => found.get(id) ?? []);
  }

  async #select(
    db: Db,
    narrow: (agents: Knex.QueryBuilder) => Knex.QueryBuilder,
  ): Promise<AgentInfo[]> {
    return translated(this.#dialect, async () => {
      const builder = db({ a: `${this.#prefix}agents` })
        .select(
          "a.*",
          db.raw(`${liveTasks(this.#prefix)} AS live`),
          db.raw(`${usedSlots(this.#prefix)} AS used`),
          db.raw(`${this.#statements.capabilities} AS capabilities`),
          db.raw(`CASE WHEN ${isFresh(this.#dialect.now)} THEN 1 ELSE 0 END AS fresh`),
        )
        .whereNot("a.status", "removed")
        .orderBy("a.agent_id");
      const rows = (await narrow(builder)) as Row[];
      const cards = rows.map((row) => this.#statements.json(row.card) as AgentCard | null);
      const alive = await this.#alive(db, new Set(cards.flatMap((it) => it?.dependencies ?? [])));
      return rows.map((row, n) => this.#info(row, cards[n] ?? null, alive));
    });
  }

  async #alive(db: Db, ids: ReadonlySet<string>): Promise<Set<string>> {
    const alive = new Set<string>();
    const all = [...ids];
    for (let from = 0; from < all.length; from += PAGE) {
      const rows = (await db(`${this.#prefix}agents`)
        .select("agent_id")
        .whereIn("agent_id", all.slice(from, from + PAGE))
        .whereRaw(
          `status NOT IN ('offline', 'removed') AND ${isFresh(this.#dialect.now)}`,
        )) as Row[];
      for (const row of rows) alive.add(String(row.agent_id));
    }
    return alive;
  }

  #info(row: Row, card: AgentCard | null, alive: ReadonlySet<string>): AgentInfo {
    const used = int(row.used);
    const most = int(row.max_concurrent_tasks);
    const status = row.status as AgentStatus;
    const lost = int(row.fresh) !== 1;
    const lastAssignedAt = int(row.last_assigned_at);
    const json = this.#statements.json;
    const capabilities = ((json(row.capabilities) ?? []) as Row[]).map(capabilityRow);
    const down = (card?.dependencies ?? []).filter((id) => !alive.has(id));
    return {
      agentId: String(row.agent_id),
      role: String(row.role),
      capabilities: namesOf(capabilities),
      capabilityDetails: detailsOf(capabilities),
      status,
      state: stateOf(status, lost, used, most),
      lost,
      available:
        !lost &&
        used < most &&
        status !== "draining" &&
        status !== "offline" &&
        (down.length === 0 || card?.requireDependencies !== true),
      currentTasks: int(row.live),
      maxConcurrentTasks: most,
      usedSlots: used,
      load: most === 0 ? 1 : used / most,
      weight: int(row.weight),
      card,
      cardHash: (row.card_hash as string | null) ?? null,
      dependenciesDown: down,
      metadata: (json(row.metadata) ?? {}) as Record<string, unknown>,
      metrics: (json(row.metrics) ?? {}) as Record<string, unknown>,
      registeredAt: int(row.registered_at),
      heartbeatAt: int(row.heartbeat_at),
      staleAfterMs: int(row.stale_after_ms),
      lastAssignedAt: lastAssignedAt === 0 ? null : lastAssignedAt,
    };
  }
}

/** What the live tasks of the agent `a` cost, by the index tasks_live. */
function usedSlots(prefix: string): string {
  return `(SELECT COALESCE(SUM(t.cost), 0) FROM ${prefix}tasks t WHERE t.agent_id = a.agent_id AND t.agent_id IS NOT NULL AND t.finished_at IS NULL)`;
}

function stateOf(status: AgentStatus, lost: boolean, used: number, most: number): AgentState {
  if (status === "offline") return status;
  if (lost) return "lost";
  if (status !== "active" || most === 0) return status;
  if (used === 0) return "idle";
  return used >= most ? "busy" : "active";
}

function capabilityRow(row: Row): CapabilityRow {
  return {
    capability: String(row.capability),
    kind: row.kind as CapabilityRow["kind"],
    sortKey: String(row.sort_key),
    value: (row.value as string | null | undefined) ?? null,
  };
}
