import type { Knex } from "knex";
import { z } from "zod";
import { AgentRegistry } from "./agent-registry.ts";
import { FileClaimCheckStore } from "./claim-check/file-store.ts";
import { configFromEnv, type EnvironmentConfig, queueOptions } from "./config.ts";
import { AgentRunner, type AgentRunnerOptions } from "./coordination/agent-runner.ts";
import type { Auctions } from "./coordination/auctions/auctions.ts";
import type { ChangeRequests } from "./coordination/changes/changes.ts";
import { Coordination } from "./coordination/coordination.ts";
import { type GatesInput, gatesOf } from "./coordination/handoffs/gates.ts";
import type { Handoffs } from "./coordination/handoffs/handoffs.ts";
import type { SupervisorOptions } from "./coordination/options.ts";
import { SupervisorCoordinator } from "./coordination/supervisor.ts";
import type { SystemModes } from "./coordination/system/system-modes.ts";
import type { Tasks } from "./coordination/tasks/tasks.ts";
import type { Workflows } from "./coordination/workflows/workflows.ts";
import { type Health, healthCheck } from "./health.ts";
import { FileLogger, type FileLoggingOptions } from "./observability/file-logger.ts";
import { type Observer, Observers } from "./protocol/events.ts";
import { given } from "./protocol/given.ts";
import { type QueueOptionsInput, queueOptionsSchema } from "./protocol/options.ts";
import { durationMs, parse, positiveInt } from "./protocol/validate.ts";
import { MessageQueueManager } from "./queue/manager.ts";
import type { Topology } from "./queue/routing/topology.ts";
import { EntityStates } from "./state/entity-states.ts";
import { EventStore } from "./state/event-store.ts";
import { Locks } from "./state/locks.ts";
import { told } from "./store/after-commit.ts";
import { type ConnectOptions, connect, type DatabaseInput } from "./store/connect.ts";
import type { DialectName } from "./store/dialect.ts";
import { checkMigrated, migrate } from "./store/migrate.ts";

export interface OpenOptions extends QueueOptionsInput, ConnectOptions {
  /** A URL, a connection string, a knex configuration, or an open knex (never closed). Default: the environment's. */
  readonly database?: DatabaseInput;
  /** Bring the database to this version first; safe when many processes do it at once. Default false. */
  readonly migrate?: boolean;
  /** Daily JSON lines; a folder, or options. Default: off, or the folder in OUTBOX_LOG_DIR. */
  readonly fileLogging?: string | FileLoggingOptions | false;
  /** Quality gates before handoffs and before answers of this outbox's agents. Default: none. */
  readonly gates?: GatesInput;
}

const ownOptions = z.object({
  migrate: z.boolean().default(false),
  poolMax: positiveInt(1_000).optional(),
  acquireTimeoutMs: durationMs(1).optional(),
});

/** An open outbox: the queue, the registry and the supervisors of one database. */
export class Outbox {
  readonly queue: MessageQueueManager;
  readonly agents: AgentRegistry;
  /** The tasks of all supervisors: get, list, tree, wait, cancel, pause, resume, and what their agents ask. */
  readonly tasks: Tasks;
  /** Work that is passed from agent to agent: initiate, accept, reject, withdraw, complete, return. */
  readonly handoffs: Handoffs;
  /** Changes that concern several modules: request, approve, reject, amend, implement, test, complete. */
  readonly changes: ChangeRequests;
  /** Maintenance: hold back what writes, and hand it out again. */
  readonly system: SystemModes;
  /** Who may send to whom: set, get, check. */
  readonly topology: Topology;
  /** Work in steps, each a task: start, signal, pause, resume, retry, cancel, wait, why. */
  readonly workflows: Workflows;
  /** One owner at a time, with fencing tokens: acquire, withLock, renew, release. */
  readonly locks: Locks;
  /** What happened, by aggregate: append with messages in one commit, load, readAll, project, follow. */
  readonly eventStore: EventStore;
  /** The state of entities by compare-and-set: get, update, delete, history. */
  readonly state: EntityStates;
  /** Tasks that agents bid for: bid, bids. */
  readonly auctions: Auctions;
  readonly dialect: DialectName;
  /** The environment's settings, as they were when it was opened. */
  readonly config: EnvironmentConfig;
  readonly #knex: Knex;
  readonly #owned: boolean;
  readonly #observers: Observers;
  readonly #fileLogger: FileLogger | undefined;
  readonly #prefix: string;
  readonly #coordination: Coordination;
  readonly #stopFirst: { stop(): Promise<unknown> }[] = [];

  /** @internal Use openOutbox. */
  constructor(parts: {
    knex: Knex;
    owned: boolean;
    dialect: DialectName;
    config: EnvironmentConfig;
    options: QueueOptionsInput;
    fileLogger: FileLogger | undefined;
    gates?: GatesInput | undefined;
  }) {
    this.#knex = parts.knex;
    this.#owned = parts.owned;
    this.dialect = parts.dialect;
    this.config = parts.config;
    this.#fileLogger = parts.fileLogger;
    this.#prefix = parts.options.prefix ?? parts.config.prefix;
    this.#observers = new Observers();
    const { fileLogger } = parts;
    if (fileLogger !== undefined) {
      this.#observers.add(fileLogger.observer);
    }
    const observers = this.#observers;
    this.queue = new MessageQueueManager(parts.knex, { ...parts.options, observers });
    this.agents = new AgentRegistry(parts.knex, { prefix: this.#prefix, observers });
    this.#coordination = new Coordination(parts.knex, {
      prefix: this.#prefix,
      queue: this.queue,
      registry: this.agents,
      observers,
      gates: parts.gates,
    });
    const { dialect, schema, parts: shared } = this.#coordination;
    const stored = { queue: this.queue, prefix: this.#prefix };
    this.locks = new Locks(parts.knex, dialect, schema, this.#prefix);
    this.eventStore = new EventStore(parts.knex, dialect, schema, stored);
    this.state = new EntityStates(parts.knex, dialect, schema, stored);
    shared.sweepSteps.push({ sweep: () => this.locks.purge() });
    this.auctions = this.#coordination.auctions;
    this.tasks = this.#coordination.tasks;
    this.handoffs = this.#coordination.handoffs;
    this.changes = this.#coordination.changes;
    this.workflows = this.#coordination.workflows;
    this.system = this.#coordination.system;
    this.topology = this.queue.topology;
  }

  /** The knex behind it, for transactions to send in. */
  get knex(): Knex {
    return this.#knex;
  }

  /** A supervisor on this outbox's queue and registry; any number may run at once, here and elsewhere. */
  supervisor(
    supervisorId: string,
    options: Omit<
      SupervisorOptions,
      "coordination" | "queue" | "registry" | "prefix" | "observers"
    > = {},
  ): SupervisorCoordinator {
    const supervisor = new SupervisorCoordinator(supervisorId, this.#knex, {
      heartbeatIntervalMs: this.config.heartbeatIntervalMs,
      taskTimeoutMs: this.config.defaultTimeoutMs,
      ...options,
      prefix: this.#prefix,
      coordination: this.#coordination,
    });
    this.#stopFirst.push(supervisor);
    return supervisor;
  }

  /**
   * Registers an agent, beats for it, and lets it do the tasks that supervisors give it, until it is stopped.
   *
   * @throws ValidationFailed for wrong options
   */
  async runAgent(
    options: Omit<
      AgentRunnerOptions,
      "coordination" | "queue" | "registry" | "prefix" | "observers"
    >,
  ): Promise<AgentRunner> {
    const runner = new AgentRunner(this.#knex, {
      heartbeatIntervalMs: this.config.heartbeatIntervalMs,
      runTimeoutMs: this.config.runTimeoutMs ?? undefined,
      ...options,
      observers: this.#observers,
      prefix: this.#prefix,
      coordination: this.#coordination,
    });
    this.#stopFirst.push(runner);
    return runner.start();
  }

  /** Tells `observer` of everything that is committed through this outbox, from now on; returns the way to stop. */
  observe(observer: Observer): () => void {
    return this.#observers.add(observer);
  }

  /** The file logger, where file logging is on. */
  getFileLogger(): FileLogger | undefined {
    return this.#fileLogger;
  }

  /** Looks at the database for real. */
  health(): Promise<Health> {
    return healthCheck(this.queue, this.agents);
  }

  /**
   * Stops supervisors, agents and workers, writes what is left of the logs, and closes the database unless it
   * was the caller's.
   */
  async close(): Promise<void> {
    await Promise.all(this.#stopFirst.map((running) => running.stop()));
    await this.#coordination.close();
    await this.queue.close();
    // The log ends with what was committed last.
    await told();
    await this.#fileLogger?.close();
    if (this.#owned) await this.#knex.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/**
 * Opens the outbox.
 *
 * @throws AgentCommunicationError NOT_MIGRATED or NEWER_DATABASE with the command to run, INVALID_CONFIGURATION,
 *   DRIVER_MISSING, SERVICE_UNAVAILABLE when the database does not answer
 */
export async function openOutbox(options: OpenOptions = {}): Promise<Outbox> {
  const {
    database,
    migrate: wanted,
    fileLogging,
    gates,
    poolMax,
    acquireTimeoutMs,
    ...queueGiven
  } = given(options);
  const config = configFromEnv();
  const checked = parse(ownOptions, { migrate: wanted, poolMax, acquireTimeoutMs }, "options");
  // All of it before a database is opened, or even made; what was given before the environment fills in.
  parse(queueOptionsSchema, queueGiven, "options");
  gatesOf(gates);
  const queue = queueOptions(config, queueGiven);
  if (queue.claimCheck === undefined && config.claimCheckDir !== null) {
    queue.claimCheck = { store: new FileClaimCheckStore(config.claimCheckDir) };
  }
  const { knex, dialect, owned } = connect(database ?? config.database, {
    ...(poolMax === undefined ? {} : { poolMax }),
    ...(acquireTimeoutMs === undefined ? {} : { acquireTimeoutMs }),
  });
  let fileLogger: FileLogger | undefined;
  try {
    const prefix = queue.prefix ?? config.prefix;
    // The mock mode's database is in memory: there is nobody else who could have migrated it.
    const mock = database === undefined && config.mode === "mock";
    if (checked.migrate || mock) await migrate(knex, { prefix });
    else await checkMigrated(knex, dialect, prefix);
    const logging = fileLogging ?? config.logDir ?? false;
    fileLogger = logging === false ? undefined : new FileLogger(logging);
    return new Outbox({ knex, owned, dialect, config, options: queue, fileLogger, gates });
  } catch (error) {
    await fileLogger?.close();
    if (owned) await knex.destroy();
    throw error;
  }
}
