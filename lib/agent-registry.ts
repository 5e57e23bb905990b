import { setTimeout as sleep } from "node:timers/promises";
import type { Knex } from "knex";
import { MessageTimeout, UnknownRecipient } from "./errors.ts";
import {
  type AgentInfo,
  type AgentStatus,
  agentIdOf,
  type BestOptions,
  bestOptionsSchema,
  type DrainOptions,
  drainOptionsSchema,
  type FindOptions,
  findOptionsSchema,
  type HeartbeatOptions,
  type HistoryOptions,
  heartbeatOptionsSchema,
  historyOptionsSchema,
  type ListAgentsOptions,
  listAgentsSchema,
  type RegisterAgent,
  type RegistryOptionsInput,
  type RegistryStats,
  registerSchema,
  registryOptionsSchema,
} from "./protocol/agents.ts";
import { type RequirementInput, requirementList } from "./protocol/capabilities.ts";
import { agentDocumentOf, changelogOf, greetingOf } from "./protocol/card-texts.ts";
import type { AgentHistoryEntry, CardDocument } from "./protocol/cards.ts";
import { declaredAs, namesOf } from "./protocol/declarations.ts";
import { Observers } from "./protocol/events.ts";
import { given } from "./protocol/given.ts";
import { jsonDocument, parse } from "./protocol/validate.ts";
import { afterCommit } from "./store/after-commit.ts";
import { hashOf } from "./store/agent-history.ts";
import { AgentSlots } from "./store/agent-slots.ts";
import { AgentStore, type Beat } from "./store/agents.ts";
import { connect } from "./store/connect.ts";
import type { Db } from "./store/dialect.ts";
import { dialectFor } from "./store/dialects.ts";
import { joined } from "./store/identity.ts";
import { Matching } from "./store/matching/matching.ts";
import { SchemaCheck } from "./store/migrate.ts";

const MOST_METADATA_BYTES = 65_536;
const MOST_ENTRIES = 1_000;
/** Between two looks at the tasks of an agent that is to end them. */
const SHORTEST_POLL_MS = 20;
const LONGEST_POLL_MS = 500;

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
  readonly #matching: Matching;
  readonly #listeners = new Set<(agentId: string) => void>();
  /** What each agent of this process was at its last heartbeat, to tell a change from a repetition. */
  readonly #seen = new Map<
    string,
    { readonly status: AgentStatus; readonly staleAfterMs: number; readonly at: number }
  >();

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
    this.#matching = new Matching(knex, dialect, prefix);
    this.#observers = observers ?? new Observers();
  }

  /**
   * Registers an agent as active and alive. Registering it again updates it: role, limit, weight and metadata are
   * replaced, and its capabilities in the same transaction, so that nobody ever sees half of them. Its card stays
   * unless a new one is given. What is new of all that is noted in its history.
   *
   * @throws ValidationFailed, PayloadTooLarge (metadata or card above 64 kB)
   */
  async registerAgent(agent: RegisterAgent): Promise<AgentInfo> {
    const { metadata, ...checked } = parse(registerSchema, agent, "agent");
    const metadataText = jsonDocument(metadata, "agent.metadata", MOST_METADATA_BYTES);
    if (checked.card) jsonDocument(checked.card, "agent.card", MOST_METADATA_BYTES);
    const created = await (await this.#checked()).register({ ...checked, metadataText });
    const { agentId, staleAfterMs } = checked;
    this.#seen.set(agentId, { status: "active", staleAfterMs, at: performance.now() });
    this.#tell(created ? "registered" : "updated", checked.agentId, {
      agent_role: checked.role,
      capabilities: namesOf(checked.capabilities),
      max_concurrent_tasks: checked.maxConcurrentTasks,
    });
    this.#announce(checked.agentId);
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
   * or goes offline. With `waitMs` it returns when the agent has no task left.
   *
   * @throws UnknownRecipient; MessageTimeout when it still has some after `waitMs` (it goes on draining)
   */
  async drainAgent(agentId: string, options: DrainOptions = {}): Promise<void> {
    const id = agentIdOf(agentId);
    const { waitMs } = parse(drainOptionsSchema, options, "options");
    const store = await this.#checked();
    if (!(await store.setStatus(id, "draining"))) throw unknown(id);
    this.#tell("draining", id, {});
    if (waitMs !== undefined) await this.#drained(store, id, waitMs);
  }

  async #drained(store: AgentStore, agentId: string, waitMs: number): Promise<void> {
    const end = performance.now() + waitMs;
    for (let pause = SHORTEST_POLL_MS; ; pause = Math.min(pause * 2, LONGEST_POLL_MS)) {
      // One that was deregistered meanwhile has none either.
      const tasks = (await store.live(agentId)) ?? 0;
      if (tasks === 0) return;
      const left = end - performance.now();
      if (left <= 0) {
        throw new MessageTimeout(`"${agentId}" still has ${tasks} tasks after ${waitMs} ms`, {
          details: { agentId, tasks, waitMs },
          recoverySuggestion:
            "It goes on draining: wait again with drainAgent, or see what it does with `agent-outbox tasks ls --agent`.",
        });
      }
      await sleep(Math.min(pause, left));
    }
  }

  /** Gives a drained agent tasks again. @throws UnknownRecipient */
  async resumeAgent(agentId: string): Promise<void> {
    const id = agentIdOf(agentId);
    if (!(await (await this.#checked()).setStatus(id, "active"))) throw unknown(id);
    this.#tell("status_change", id, { new_status: "active" });
    this.#announce(id);
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
   * What happened to an agent, the newest first: changes of its card (with all that it said of itself) and of its
   * state. The last 100 of both are kept, and for 30 days after it was deregistered.
   */
  async getAgentHistory(
    agentId: string,
    options: HistoryOptions = {},
  ): Promise<AgentHistoryEntry[]> {
    const id = agentIdOf(agentId);
    const filter = parse(historyOptionsSchema, options, "options");
    return (await this.#checked()).history.list(id, filter);
  }

  /**
   * How an agent presents itself, as Markdown: name, domain, location, status, capabilities, and whether those
   * that it depends on are alive.
   *
   * @throws UnknownRecipient, as do the next two
   */
  async getAgentGreeting(agentId: string): Promise<string> {
    const { agent, card } = await this.#described(agentId);
    return greetingOf(agent, card);
  }

  /**
   * AGENT.md of an agent: all that its users rely on, with the hash of it in front (`card_hash`), so that a file
   * can be compared with what is registered.
   */
  async getAgentDocument(agentId: string): Promise<string> {
    const { agent, card } = await this.#described(agentId);
    return agentDocumentOf(agent.agentId, agent.cardHash ?? hashOf(card), card);
  }

  /** The changes of its card, the newest first, each as the message of a commit. Empty when there was none yet. */
  async getAgentChangelog(agentId: string): Promise<string> {
    const { agent } = await this.#described(agentId);
    const filter = { limit: MOST_ENTRIES, cards: true };
    return changelogOf(agent.agentId, await this.#agents.history.list(agent.agentId, filter));
  }

  async #described(agentId: string): Promise<{ agent: AgentInfo; card: CardDocument }> {
    const agent = await this.#require(agentIdOf(agentId));
    const declared = agent.capabilities.flatMap((name) => {
      const detail = agent.capabilityDetails.find((it) => it.name === name);
      return detail === undefined ? name : declaredAs(detail);
    });
    const { role, maxConcurrentTasks, card } = agent;
    return { agent, card: { role, capabilities: declared, maxConcurrentTasks, card } };
  }

  /**
   * Agents that meet all requirements and have room, the best first: by default the least loaded, and of equal
   * ones that which got its last task longest ago. Deprecated agents come last, and agents in development only
   * where they are asked for.
   *
   * @param capabilities names, or requirements such as `"python >= 3.11"` and `"region in (eu, us)"`
   */
  async findAvailableAgents(
    capabilities: readonly RequirementInput[],
    options: FindOptions = {},
  ): Promise<AgentInfo[]> {
    const required = parse(requirementList, capabilities, "capabilities");
    const { maxResults, preferred, ...how } = parse(findOptionsSchema, options, "options");
    const store = await this.#checked();
    const found = await this.#matching.candidates(
      this.#knex,
      { required, preferred },
      { limit: maxResults, ...how },
    );
    return store.some(found.map(({ agentId }) => agentId));
  }

  /** The best of them, or null when no agent can take a task with these requirements now. */
  async findBestAgent(
    capabilities: readonly RequirementInput[],
    options: BestOptions = {},
  ): Promise<AgentInfo | null> {
    parse(bestOptionsSchema, options, "options");
    const [best] = await this.findAvailableAgents(capabilities, { ...options, maxResults: 1 });
    return best ?? null;
  }

  /**
   * Tells that an agent is alive. Writes its row only; a heartbeat is never a message in a queue. With metrics
   * (`memory_mb`, `cpu_percent`) above the limits of its card the agent drains, until they are below again. Joins
   * the caller's transaction where `tx` is given.
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
    const store = await this.#checked(tx);
    const beat = await store.heartbeat(db, id, status, metrics, this.#mayDiffer(id, status));
    if (beat === undefined) throw unknown(id);
    this.#tellChange(db, id, beat);
    return { status: beat.status, heartbeatAt: beat.heartbeatAt };
  }

  /**
   * Calls a function whenever an agent of this process may have room that it had not: it was registered, resumed,
   * came back, or fell below its limits. After the commit. Returns what ends it.
   *
   * @internal
   */
  onRoom(listener: (agentId: string) => void): () => void {
    // Of its own, so that the same function can be told twice.
    const own = (agentId: string) => listener(agentId);
    this.#listeners.add(own);
    return () => void this.#listeners.delete(own);
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

  /** Whether a heartbeat may find the agent in another state than its last one: then its history is looked at. */
  #mayDiffer(agentId: string, status: AgentStatus | undefined): boolean {
    const seen = this.#seen.get(agentId);
    if (seen === undefined || performance.now() - seen.at > seen.staleAfterMs / 2) return true;
    return status === undefined ? seen.status === "offline" : status !== seen.status;
  }

  /** After the commit: of a heartbeat that is rolled back nothing is remembered. */
  #tellChange(db: Db, agentId: string, { status, staleAfterMs, returned, above }: Beat): void {
    afterCommit(db, () => {
      const before = this.#seen.get(agentId)?.status;
      this.#seen.set(agentId, { status, staleAfterMs, at: performance.now() });
      // Somebody else may have resumed it, or it is the first heartbeat of this process.
      const changed = before !== status;
      if (above !== undefined) this.#tell("draining", agentId, { reason: "limits", ...above });
      else if (changed && before !== undefined) {
        this.#tell("status_change", agentId, { old_status: before, new_status: status });
      }
      const takesTasks = status !== "draining" && status !== "offline";
      if ((changed || returned) && takesTasks) this.#announce(agentId);
    });
  }

  #announce(agentId: string): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener(agentId);
      } catch {
        // Whoever listens looks after its own errors: the registry has done what it was asked.
      }
    }
  }

  #tell(event: string, agentId: string, data: Readonly<Record<string, unknown>>): void {
    if (!this.#observers.active) return;
    this.#observers.emit([{ type: "agent", event, agentId, at: Date.now(), data }]);
  }
}

function unknown(agentId: string): UnknownRecipient {
  return new UnknownRecipient(`there is no agent "${agentId}"`, { details: { agentId } });
}
