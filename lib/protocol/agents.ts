import { z } from "zod";
import { preferenceList } from "./capabilities.ts";
import { type AgentCard, cardSchema } from "./cards.ts";
import { type CapabilityDetail, declarationList } from "./declarations.ts";
import { durationMs, id, parse, plainText, positiveInt } from "./validate.ts";

/** Roles that the library names; any other string is a role too. */
export const AgentRole = { SUPERVISOR: "supervisor", WORKER: "worker" } as const;

/**
 * What an agent may report of itself. One that is `draining` gets no new tasks and ends those that it has; the
 * tasks of one that is `offline` go to others.
 */
export const AGENT_STATUSES = ["active", "idle", "busy", "draining", "offline"] as const;
export type AgentStatus = (typeof AGENT_STATUSES)[number];

/** How the best of several agents is found. */
const STRATEGIES = ["leastLoaded", "roundRobin", "weighted", "sticky"] as const;
export type MatchingStrategy = (typeof STRATEGIES)[number];

/** What an agent does now: as it reports, or by its load where it only says that it is active. */
export type AgentState = AgentStatus | "lost";

/** An agent as the registry knows it. Instants are milliseconds since the epoch, by the database's clock. */
export interface AgentInfo {
  readonly agentId: string;
  readonly role: string;
  /** Their names, in alphabetical order. */
  readonly capabilities: readonly string[];
  /** Those of them that have versions or values. */
  readonly capabilityDetails: readonly CapabilityDetail[];
  /** What it reported last, or what an operator made of it. */
  readonly status: AgentStatus;
  /** For people: lost, offline, draining; else idle without a task, busy without room, active between the two. */
  readonly state: AgentState;
  /** True when its last heartbeat is older than `staleAfterMs`. */
  readonly lost: boolean;
  /**
   * Gets tasks: beats, is neither draining nor offline, has room for one more, and all that it cannot do without
   * is alive. One in development gets those only that ask for such agents.
   */
  readonly available: boolean;
  /** Tasks assigned to it that have not ended. */
  readonly currentTasks: number;
  readonly maxConcurrentTasks: number;
  /** The sum of what its tasks cost. */
  readonly usedSlots: number;
  /** usedSlots / maxConcurrentTasks; 1 for an agent that takes no tasks. */
  readonly load: number;
  /** Its share where agents are drawn ("weighted"). */
  readonly weight: number;
  /** What it says of itself; null where it says nothing. */
  readonly card: AgentCard | null;
  /** SHA-256 of the card, the role, the capabilities and the limit of tasks. */
  readonly cardHash: string | null;
  /** Those of the card's dependencies that are lost, offline or not registered. */
  readonly dependenciesDown: readonly string[];
  readonly metadata: Readonly<Record<string, unknown>>;
  /** What its heartbeats reported, merged. */
  readonly metrics: Readonly<Record<string, unknown>>;
  readonly registeredAt: number;
  readonly heartbeatAt: number;
  readonly staleAfterMs: number;
  /** Null before its first task. */
  readonly lastAssignedAt: number | null;
}

export interface RegistryStats {
  readonly totalAgents: number;
  /** The mean load of the agents that beat, are not offline, and take tasks; 0 without any. */
  readonly averageLoad: number;
  readonly availableAgents: number;
  readonly lostAgents: number;
  /** Tasks that agents have now, and how many they could have at most. */
  readonly currentTasks: number;
  readonly capacity: number;
  readonly byStatus: Readonly<Record<string, number>>;
  readonly byRole: Readonly<Record<string, number>>;
  /** How many agents have each capability; the 1,000 most frequent. */
  readonly capabilities: Readonly<Record<string, number>>;
}

/** Three heartbeats of 30 s (AGENT_HEARTBEAT_INTERVAL). */
const DEFAULT_STALE_AFTER_MS = 90_000;

const mapping = z.record(plainText(256), z.unknown());

export const registryOptionsSchema = z.strictObject({
  /** What the table names begin with. Default "outbox_". */
  prefix: z.string().default("outbox_"),
});
export type RegistryOptionsInput = z.input<typeof registryOptionsSchema>;

export const registerSchema = z.strictObject({
  agentId: id,
  /** See AgentRole; any text of 1 to 64 visible characters. Default "worker". */
  role: id.max(64, "expected at most 64 characters").default(AgentRole.WORKER),
  /**
   * What it can do: up to 200 names, compared exactly, some with a version (`"python@3.12"`) or a value
   * (`"gpu=true"`, `{ name: "region", value: ["eu", "us"] }`). They replace those of an earlier registration.
   */
  capabilities: declarationList.default([]),
  /** The most tasks at once, 0 (takes none) to 10,000. Default 1. */
  maxConcurrentTasks: z
    .number("expected a whole number")
    .int("expected a whole number")
    .min(0, "expected at least 0")
    .max(10_000, "expected at most 10000")
    .default(1),
  /** Its share where agents are drawn (strategy "weighted"), 1 to 1,000. Default 1. */
  weight: positiveInt(1_000).default(1),
  /** What it says of itself, up to 64 kB. Default: what it said before; null takes that away. */
  card: cardSchema.nullable().optional(),
  /** Lost without a heartbeat for this long, in milliseconds; 100 to a day. Default 90,000. */
  staleAfterMs: durationMs(100)
    .max(86_400_000, "expected at most a day")
    .default(DEFAULT_STALE_AFTER_MS),
  /** Anything about it as a JSON object, up to 64 kB. Default {}. */
  metadata: mapping.default({}),
});
export type RegisterAgent = z.input<typeof registerSchema>;
export type Registration = z.output<typeof registerSchema>;

export const heartbeatOptionsSchema = z.strictObject({
  /** Default: as it was; an agent that was offline becomes active. */
  status: z.enum(AGENT_STATUSES).optional(),
  /** Merged into the stored ones, key by key; null takes a key away. */
  metrics: mapping.optional(),
});
export type HeartbeatOptions = z.input<typeof heartbeatOptionsSchema>;

const matchingOptions = {
  /**
   * How to choose. `leastLoaded` (default): the lowest load, then the least recently assigned. `roundRobin`: the
   * least recently assigned. `weighted`: drawn, each by its weight times its free slots. `sticky`: who had the last
   * task of `contextId`, else as leastLoaded.
   */
  strategy: z
    .enum(STRATEGIES, { error: `there is no such strategy; there is ${STRATEGIES.join(", ")}` })
    .default("leastLoaded"),
  /** With "sticky", which needs it. */
  contextId: id.optional(),
  /** What counts in an agent's favour, at most 50: those that meet most of it come first. Default: nothing. */
  preferred: preferenceList.default([]),
  /** How many free slots it must have, 1 to 10,000. Default 1. */
  cost: positiveInt(10_000).default(1),
  /** Also agents whose card says that they are in development. Default false. */
  includeDevelopment: z.boolean().default(false),
};

const STICKY = {
  error: 'the strategy "sticky" needs a contextId',
  path: ["contextId"],
};

const hasContext = (options: { strategy: string; contextId?: string | undefined }) =>
  options.strategy !== "sticky" || options.contextId !== undefined;

export const findOptionsSchema = z
  .strictObject({
    /** The most agents to return, 1 to 1,000. Default 10. */
    maxResults: positiveInt(1_000).default(10),
    ...matchingOptions,
  })
  .refine(hasContext, STICKY);
export type FindOptions = z.input<typeof findOptionsSchema>;

export const bestOptionsSchema = z.strictObject(matchingOptions).refine(hasContext, STICKY);
export type BestOptions = z.input<typeof bestOptionsSchema>;

export const drainOptionsSchema = z.strictObject({
  /** How long to wait until it has ended all its tasks, in milliseconds. Default: not at all. */
  waitMs: durationMs().optional(),
});
export type DrainOptions = z.input<typeof drainOptionsSchema>;

export const historyOptionsSchema = z.strictObject({
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
  /** Only changes of the card. Default false. */
  cards: z.boolean().default(false),
  /** Continue before this entry's `seq`. */
  before: positiveInt(Number.MAX_SAFE_INTEGER).optional(),
});
export type HistoryOptions = z.input<typeof historyOptionsSchema>;

export const listAgentsSchema = z.strictObject({
  status: z.enum(AGENT_STATUSES).optional(),
  role: id.optional(),
  /** Only agents with this capability. */
  capability: id.optional(),
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
  /** Continue after this agent id. */
  after: id.optional(),
});
export type ListAgentsOptions = z.input<typeof listAgentsSchema>;
export type AgentFilter = z.output<typeof listAgentsSchema>;

export const agentIdOf = (value: unknown): string => parse(id, value, "agentId");
