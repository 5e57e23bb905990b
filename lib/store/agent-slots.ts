import type { Knex } from "knex";
import type { RegistryStats } from "../protocol/agents.ts";
import { AgentHistory } from "./agent-history.ts";
import {
  type AgentStatements,
  agentStatements,
  isFresh,
  liveTasks,
  TAKES_TASKS,
  usedSlots,
} from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import { presentPage } from "./recipients.ts";
import { int, query, type Row, translated } from "./sql.ts";

/** How many capabilities the statistics name. */
const MOST_CAPABILITIES = 1_000;

/** Who may have one task more, who is gone, and how busy all are. */
export class AgentSlots {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #prefix: string;
  readonly #statements: AgentStatements;
  readonly #history: AgentHistory;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#prefix = prefix;
    this.#statements = agentStatements(dialect.name, prefix, dialect.now);
    this.#history = new AgentHistory(knex, dialect, prefix);
  }

  #agents(db: Db): Knex.QueryBuilder {
    return db(`${this.#prefix}agents`);
  }

  /**
   * Holds `cost` slots of this agent until the transaction ends. Without `wait` an agent whose row another
   * transaction holds is unavailable. First the row is locked by writing
   * it, then its tasks are counted, by a statement of its own: at READ COMMITTED that one sees what every
   * earlier holder of the lock committed; at a higher level the write fails instead of seeing less. So two
   * supervisors can never both take the last place.
   */
  async reserve(
    trx: Db,
    agentId: string,
    cost = 1,
    wait = true,
  ): Promise<"reserved" | "full" | "unavailable"> {
    return translated(this.#dialect, async () => {
      if (
        !wait &&
        (await query(trx, this.#statements.lockAgent, { agent: agentId })).length === 0
      ) {
        return "unavailable";
      }
      const locked = (await this.#agents(trx)
        .where({ agent_id: agentId })
        .whereRaw(`${TAKES_TASKS} AND ${isFresh(this.#dialect.now)}`)
        .update({ last_assigned_at: trx.raw(this.#dialect.now) }, [
          "max_concurrent_tasks",
        ])) as Row[];
      const [agent] = locked;
      if (agent === undefined) return "unavailable";
      const used = await usedSlots(trx, `${this.#prefix}tasks`, agentId);
      return used + cost <= int(agent.max_concurrent_tasks) ? "reserved" : "full";
    });
  }

  /** Up to `limit` agents that fell silent or went away, and whose tasks nobody has taken yet. */
  async gone(limit: number): Promise<string[]> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#agents(this.#knex)
        .select("agent_id")
        .whereRaw(this.#isGone)
        .orderBy("agent_id")
        .limit(limit)) as Row[];
      return rows.map((row) => String(row.agent_id));
    });
  }

  /** Those of these agents that are marked as lost, or are not registered. */
  async absent(agentIds: readonly string[]): Promise<Set<string>> {
    const ids = [...new Set(agentIds)];
    return translated(this.#dialect, async () => {
      const rows = (await this.#agents(this.#knex)
        .select("agent_id")
        .whereIn("agent_id", ids)
        .whereNull("lost_at")) as Row[];
      const there = new Set(rows.map((row) => String(row.agent_id)));
      return new Set(ids.filter((agentId) => !there.has(agentId)));
    });
  }

  /** "removed" has no heartbeat since 1970, so it counts as silent. */
  get #isGone(): string {
    return `lost_at IS NULL AND (status = 'offline' OR NOT (${isFresh(this.#dialect.now)}))`;
  }

  /**
   * Locks an agent that is still gone: until the transaction ends it can neither beat nor get a task. False
   * when it beat in the meantime, or someone else marked it.
   */
  async lockGone(trx: Db, agentId: string): Promise<boolean> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#agents(trx)
        .where({ agent_id: agentId })
        .whereRaw(this.#isGone)
        .update({ lost_at: null }, ["agent_id"])) as Row[];
      return rows.length > 0;
    });
  }

  /** The end of an agent that has no task left: deleted where it was deregistered, otherwise marked. */
  async bury(trx: Db, agentId: string): Promise<"lost" | "offline" | "removed"> {
    return translated(this.#dialect, async () => {
      const deleted = await this.#agents(trx).where({ agent_id: agentId, status: "removed" }).del();
      if (deleted > 0) return "removed";
      const [row] = (await this.#agents(trx)
        .where({ agent_id: agentId })
        .update({ lost_at: trx.raw(this.#dialect.now) }, ["status"])) as Row[];
      if (row?.status === "offline") return "offline";
      if (row !== undefined) await this.#history.note(trx, agentId, "lost");
      return "lost";
    });
  }

  /** A page of the agents that are there to listen, by id, after `after`. */
  async present(db: Db, after: string, limit: number): Promise<string[]> {
    return translated(this.#dialect, () => presentPage(db, this.#prefix, { after, limit }));
  }

  /** Figures over all agents: grouped in the database, so that only the groups travel. */
  async stats(): Promise<RegistryStats> {
    const knex = this.#knex;
    return translated(this.#dialect, async () => {
      const fresh = isFresh(this.#dialect.now);
      const takes = `${fresh} AND ${TAKES_TASKS} AND max_concurrent_tasks > 0`;
      const each = knex({ a: `${this.#prefix}agents` })
        .select(
          "a.status",
          "a.role",
          knex.raw(`CASE WHEN ${fresh} THEN 0 ELSE 1 END AS lost`),
          knex.raw(`CASE WHEN ${takes} THEN 1 ELSE 0 END AS takes`),
          "a.max_concurrent_tasks AS most",
          knex.raw(`${liveTasks(this.#prefix)} AS live`),
        )
        .whereNot("a.status", "removed")
        .as("x");
      const groups = (await knex
        .from(each)
        .select("x.status", "x.role", "x.lost", "x.takes")
        .count({ agents: "*" })
        .sum({ live: "x.live", most: "x.most" })
        .select(
          knex.raw("SUM(x.live * 1.0 / CASE WHEN x.most = 0 THEN 1 ELSE x.most END) AS loads"),
          knex.raw("SUM(CASE WHEN x.live < x.most THEN 1 ELSE 0 END) AS room"),
        )
        .groupBy("x.status", "x.role", "x.lost", "x.takes")) as Row[];
      const capabilities = (await knex(`${this.#prefix}agent_capabilities`)
        .select("capability")
        .count({ agents: "*" })
        .groupBy("capability")
        .orderBy([{ column: "agents", order: "desc" }, { column: "capability" }])
        .limit(MOST_CAPABILITIES)) as Row[];
      return summary(groups, capabilities);
    });
  }
}

function summary(groups: readonly Row[], capabilities: readonly Row[]): RegistryStats {
  const sum = (column: string, rows = groups): number =>
    rows.reduce((total, row) => total + Number(row[column] ?? 0), 0);
  const by = (column: string): Record<string, number> => {
    // A role may have any name, also one that every object has, such as "constructor".
    const counts = new Map<string, number>();
    for (const row of groups) {
      const key = String(row[column]);
      counts.set(key, (counts.get(key) ?? 0) + int(row.agents));
    }
    return Object.fromEntries(counts);
  };
  const lost = groups.filter((row) => int(row.lost) === 1);
  const takers = groups.filter((row) => int(row.takes) === 1);
  const working = sum("agents", takers);
  return {
    totalAgents: sum("agents"),
    averageLoad: working === 0 ? 0 : sum("loads", takers) / working,
    availableAgents: sum("room", takers),
    lostAgents: sum("agents", lost),
    currentTasks: sum("live"),
    capacity: sum("most", takers),
    byStatus: by("status"),
    byRole: by("role"),
    capabilities: Object.fromEntries(
      capabilities.map((row) => [String(row.capability), int(row.agents)]),
    ),
  };
}
