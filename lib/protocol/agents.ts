import { z } from "zod";
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

/** An agent as the registry knows it. Instants are milliseconds since the epoch, by the database's clock. */
export interface AgentInfo {
  readonly agentId: string;
  readonly role: string;
  /** Their names, in alphabetical order. */
  readonly capabilities: readonly string[];
  /** Those of them that have versions or values. */
  readonly capabilityDetails: readonly CapabilityDetail[];
  readonly status: AgentStatus;
  /** True when its last heartbeat is older than `staleAfterMs`. */
  readonly lost: boolean;
  /** Gets tasks: beats, is neither draining nor offline, and has room for one more. */
  readonly available: boolean;
  /** Tasks assigned to it that have not ended. */
  readonly currentTasks: number;
  readonly maxConcurrentTasks: number;
  /** currentTasks / maxConcurrentTasks; 1 for an agent that takes no tasks. */
  readonly load: number;
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

export const capabilityList = z
  .array(id, "expected an array of capabilities")
  .max(200, "expected at most 200 capabilities")
  .transform((list) => [...new Set(list)].sort());

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

export const findOptionsSchema = z.strictObject({
  /** The most agents to return, 1 to 1,000. Default 10. */
  maxResults: positiveInt(1_000).default(10),
});
export type FindOptions = z.input<typeof findOptionsSchema>;

export const bestOptionsSchema = z.strictObject({
  /** How to choose. `leastLoaded` (default): the lowest load, then the least recently assigned. */
  strategy: z
    .enum(STRATEGIES, { error: `there is no such strategy; there is ${STRATEGIES.join(", ")}` })
    .default("leastLoaded"),
});
export type BestOptions = z.input<typeof bestOptionsSchema>;

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
