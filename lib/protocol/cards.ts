import { z } from "zod";
import { capabilityName, versionText } from "./capability-values.ts";
import { type CapabilityRow, declarationText } from "./declarations.ts";
import { durationMs, id, plainText } from "./validate.ts";

/** Where an agent stands. One in development gets only tasks that ask for such, one deprecated what no other can take. */
const LIFECYCLES = ["active", "development", "deprecated"] as const;

const DAY_MS = 86_400_000;

const amount = (unit: string) =>
  z.number(`expected a number of ${unit}`).gt(0, `expected more than 0 ${unit}`).max(1e9);

const sla = z
  .strictObject({
    /** How long it is meant to take for a task, in milliseconds. */
    targetMs: durationMs(1).max(DAY_MS, "expected at most a day"),
    /** How long a task takes at most, in milliseconds. */
    maxMs: durationMs(1).max(DAY_MS, "expected at most a day"),
  })
  .refine(({ targetMs, maxMs }) => targetMs <= maxMs, {
    message: "expected a target of at most maxMs",
    path: ["targetMs"],
  });

const limits = z.strictObject({
  /** Drains while its heartbeats report more as `memory_mb`. */
  memoryMb: amount("megabytes").optional(),
  /** The same for `cpu_percent`; 100 is one core. */
  cpuPercent: amount("percent").optional(),
  /** The largest file that it takes. For its callers: nothing enforces it. */
  fileMb: amount("megabytes").optional(),
});

export const cardSchema = z.strictObject({
  /** What people call it. Default: its id. */
  name: plainText(128).optional(),
  domain: plainText(256).optional(),
  /** Where it runs or where its code is. */
  location: plainText(512).optional(),
  lifecycle: z.enum(LIFECYCLES, `expected one of ${LIFECYCLES.join(", ")}`).default("active"),
  description: plainText(4_096).optional(),
  version: versionText.optional(),
  /** What its capabilities are, by their names. */
  capabilities: z.record(capabilityName, plainText(1_024)).default({}),
  /** Ids of agents that it works with, at most 50. */
  dependencies: z
    .array(id, "expected an array of agent ids")
    .max(50, "expected at most 50 dependencies")
    .transform((list) => [...new Set(list)].sort())
    .default([]),
  /** Get no tasks while one of them is lost, offline or unknown. Default false. */
  requireDependencies: z.boolean().default(false),
  limitations: z.array(plainText(1_024)).max(50, "expected at most 50 limitations").default([]),
  /** How it deals with errors, for people. */
  errorHandling: plainText(4_096).optional(),
  sla: sla.optional(),
  limits: limits.default({}),
});
/** What an agent says of itself. */
export type AgentCard = z.output<typeof cardSchema>;
export type AgentCardInput = z.input<typeof cardSchema>;

/** All that its users rely on: when it changes, so does the hash of the card. */
export interface CardDocument {
  readonly role: string;
  /** As they are declared: `python@3.12`, `gpu=true`. */
  readonly capabilities: readonly string[];
  readonly maxConcurrentTasks: number;
  readonly card: AgentCard | null;
}

/** What the history of an agent has of it. Instants are milliseconds since the epoch, by the database's clock. */
export interface AgentHistoryEntry {
  /** Grows with every entry. */
  readonly seq: number;
  readonly agentId: string;
  readonly event: AgentHistoryEvent;
  readonly at: number;
  readonly data: Readonly<Record<string, unknown>>;
  /** With "registered" and "card": what it said of itself from then on. */
  readonly card: CardDocument | null;
  readonly cardHash: string | null;
}

/** `card`: it was registered again with something new. `active`: it gets tasks again. */
export type AgentHistoryEvent =
  | "registered"
  | "card"
  | "active"
  | "draining"
  | "offline"
  | "lost"
  | "deregistered";

export function documentOf(
  agent: { readonly role: string; readonly maxConcurrentTasks: number },
  capabilities: readonly CapabilityRow[],
  card: AgentCard | null,
): CardDocument {
  return {
    role: agent.role,
    capabilities: capabilities.map(declarationText),
    maxConcurrentTasks: agent.maxConcurrentTasks,
    card,
  };
}

/** Which of the limits the metrics of an agent are above, and what they are; undefined when none. */
export function exceeded(
  limits: AgentCard["limits"],
  metrics: Readonly<Record<string, unknown>>,
): Record<string, number> | undefined {
  const checks = { memory_mb: limits.memoryMb, cpu_percent: limits.cpuPercent };
  const above = Object.entries(checks).flatMap(([name, limit]): [string, number][] => {
    const value = metrics[name];
    return typeof value === "number" && limit !== undefined && value > limit ? [[name, value]] : [];
  });
  return above.length === 0 ? undefined : Object.fromEntries(above);
}

/** JSON whose keys are in order, so that equal values are equal texts, whichever database they come from. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const fields = Object.entries(value)
    .filter(([, inner]) => inner !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, inner]) => `${JSON.stringify(key)}:${canonicalJson(inner)}`);
  return `{${fields.join(",")}}`;
}
