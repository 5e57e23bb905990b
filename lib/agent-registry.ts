import type { Knex } from "knex";
import { UnknownRecipient } from "./errors.ts";
import {
  type AgentInfo,
  type AgentStatus,
  agentIdOf,
  type BestOptions,
  bestOptionsSchema,
  capabilityList,
  type FindOptions,
  findOptionsSchema,
  type HeartbeatOptions,
  heartbeatOptionsSchema,
  type ListAgentsOptions,
  listAgentsSchema,
  type RegisterAgent,
  type RegistryOptionsInput,
  type RegistryStats,
  registerSchema,
  registryOptionsSchema,
} from "./protocol/agents.ts";
import { namesOf } from "./protocol/declarations.ts";
import { Observers } from "./protocol/events.ts";
import { given } from "./protocol/given.ts";
import { jsonDocument, parse } from "./protocol/validate.ts";
import { afterCommit } from "./store/after-commit.ts";
import { AgentSlots } from "./store/agent-slots.ts";
import { AgentStore } from "./store/agents.ts";
import { connect } from "./store/connect.ts";
import type { Db } from "./store/dialect.ts";
import { dialectFor } from "./store/dialects.ts";
import { joined } from "./store/identity.ts";
import { SchemaCheck } from "./store/migrate.ts";

const MOST_METADATA_BYTES = 65_536;

export interface HeartbeatResult {
  /** What the registry has now: an operator's `draining` outlasts the "active" that an agent reports. */
  readonly status: AgentStatus;
  /** Milliseconds since the epoch, by the database's clock. */
  readonly heartbeatAt: number;
}

/** Who is there, what each can do, and how busy it is. */
export class AgentRegistry {
  readonly #knex: Knex;
  readonly #schema: SchemaCheck;
  readonly #agents: AgentStore;
  readonly #slots: AgentSlots;
  readonly #observers: Observers;
  /** The status that each agent of this process had at its last heartbeat, to tell a change from a repetition. */
  readonly #seen = new Map<string, AgentStatus>();

  /**
   * @param knex an open knex instance; never closed by this class
   * @throws ValidationFailed for unknown or wrong options
   */
  constructor(
    knex: Knex,
    options: RegistryOptionsInput & { observers?: Observers | undefined } = {},
  ) {
    const { observers, ...rest } = given(options);
    const { prefix } = parse(registryOptionsSchema, rest, "options");
    const dialect = dialectFor(connect(knex).dialect, prefix);
    this.#knex = knex;
    this.#schema = new SchemaCheck(knex, dialect.name, prefix);
    this.#agents = new AgentStore(knex, dialect, prefix);
    this.#slots = new AgentSlots(knex, dialect, prefix);
    this.#observers = observers ?? new Observers();
  }

  /**
   * Registers an agent as active and alive. Registering it again updates it: role, limit and metadata are
   * replaced, and its capabilities in the same transaction, so that nobody ever sees half of them.
   *
   * @throws ValidationFailed, PayloadTooLarge (metadata above 64 kB)
   */
  async registerAgent(agent: RegisterAgent): Promise<AgentInfo> {
    const { metadata, ...checked } = parse(registerSchema, agent, "agent");
    const metadataText = jsonDocument(metadata, "agent.metadata", MOST_METADATA_BYTES);
    const created = await (await this.#checked()).register({ ...checked, metadataText });
    this.#seen.set(checked.agentId, "active");
    this.#tell(created ? "registered" : "updated", checked.agentId, {
      agent_role: checked.role,
      capabilities: namesOf(checked.capabilities),
      max_concurrent_tasks: checked.maxConcurrentTasks,
    });
    return this.#require(checked.agentId);
  }

  /**
   * Takes an agent away. Tasks that it still has go to others with the next round of any supervisor. False
   * when there is no such agent.
   */
  async deregisterAgent(agentId: string): Promise<boolean> {
    const id = agentIdOf(agentId);
    const removed = await (await this.#checked()).remove(id);
    this.#seen.delete(id);
    if (removed) this.#tell("deregistered", id, {});
    return removed;
  }

  /**
   * Gives an agent no new tasks; it goes on with those that it has. Lasts until it is registered again, resumed,
   * or goes offline.
   *
   * @throws UnknownRecipient
   */
  async drainAgent(agentId: string): Promise<void> {
    const id = agentIdOf(agentId);
    if (!(await (await this.#checked()).setStatus(id, "draining"))) throw unknown(id);
    this.#tell("draining", id, {});
  }

  /** Gives a drained agent tasks again. @throws UnknownRecipient */
  async resumeAgent(agentId: string): Promise<void> {
    const id = agentIdOf(agentId);
    if (!(await (await this.#checked()).setStatus(id, "active"))) throw unknown(id);
    this.#tell("status_change", id, { new_status: "active" });
  }

  /** The agent, or null. */
  async getAgent(agentId: string): Promise<AgentInfo | null> {
    return (await (await this.#checked()).get(agentIdOf(agentId))) ?? null;
  }

  /** Agents in the order of their ids, a page at a time. */
  async listAgents(options: ListAgentsOptions = {}): Promise<AgentInfo[]> {
    return (await this.#checked()).list(parse(listAgentsSchema, options, "options"));
  }

  /**
   * Agents that have every one of these capabilities and room for a task, the least loaded first; of equal ones
   * that which got its last task longest ago.
   */
  async findAvailableAgents(
    capabilities: readonly string[],
    options: FindOptions = {},
  ): Promise<AgentInfo[]> {
    const needs = parse(capabilityList, capabilities, "capabilities");
    const { maxResults } = parse(findOptionsSchema, options, "options");
    return (await this.#checked()).findAvailable(needs, maxResults);
  }

  /** The best of them, or null when no agent can take a task with these requirements now. */
  async findBestAgent(
    capabilities: readonly string[],
    options: BestOptions = {},
  ): Promise<AgentInfo | null> {
    parse(bestOptionsSchema, options, "options");
    const [best] = await this.findAvailableAgents(capabilities, { maxResults: 1 });
    return best ?? null;
  }

  /**
   * Tells that an agent is alive. Writes its row only; a heartbeat is never a message in a queue. Joins the
   * caller's transaction where `tx` is given.
   *
   * @throws UnknownRecipient, PayloadTooLarge (metrics above 64 kB)
   */
  async updateHeartbeat(
    agentId: string,
    options: HeartbeatOptions & { tx?: Knex.Transaction | undefined } = {},
  ): Promise<HeartbeatResult> {
    const { tx, ...rest } = given(options);
    const id = agentIdOf(agentId);
    const { status, metrics } = parse(heartbeatOptionsSchema, rest, "options");
    if (metrics !== undefined) jsonDocument(metrics, "options.metrics", MOST_METADATA_BYTES);
    const db = joined(this.#knex, tx);
    const beat = await (await this.#checked(tx)).heartbeat(db, id, status, metrics);
    if (beat === undefined) throw unknown(id);
    this.#tellChange(db, id, beat.status);
    return beat;
  }

  /** Figures over all agents. */
  async getRegistryStats(): Promise<RegistryStats> {
    await this.#schema.ensure();
    return this.#slots.stats();
  }

  /** The store, once the schema is known to be this version's. */
  async #checked(tx?: unknown): Promise<AgentStore> {
    await this.#schema.ensure(tx);
    return this.#agents;
  }

  async #require(agentId: string): Promise<AgentInfo> {
    const agent = await (await this.#checked()).get(agentId);
    if (agent === undefined) throw unknown(agentId);
    return agent;
  }

  #tellChange(db: Db, agentId: string, status: AgentStatus): void {
    const before = this.#seen.get(agentId);
    if (before === status) return;
    this.#seen.set(agentId, status);
    if (before === undefined) return;
    afterCommit(db, () =>
      this.#tell("status_change", agentId, { old_status: before, new_status: status }),
    );
  }

  #tell(event: string, agentId: string, data: Readonly<Record<string, unknown>>): void {
    if (!this.#observers.active) return;
    this.#observers.emit([{ type: "agent", event, agentId, at: Date.now(), data }]);
  }
}

function unknown(agentId: string): UnknownRecipient {
  return new UnknownRecipient(`there is no agent "${agentId}"`, { details: { agentId } });
}
