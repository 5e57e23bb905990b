import { z } from "zod";
import { registerSchema } from "./agents.ts";
import { declarationsAsGiven } from "./declarations.ts";
import { durationMs, id, positiveInt } from "./validate.ts";

const DAY_MS = 86_400_000;

const handler = z.custom<unknown>((value) => typeof value === "function", "expected a function");

const timedHandler = z.strictObject({
  run: handler,
  /** The most that one of its runs may take, in milliseconds. Default: as the card, the task's class or `runTimeoutMs` say. */
  timeoutMs: durationMs(1).optional(),
});

export const runnerOptionsSchema = z
  .strictObject({
    ...registerSchema.omit({ staleAfterMs: true, maxConcurrentTasks: true }).shape,
    /** What it can do; see RegisterAgent. */
    capabilities: declarationsAsGiven.default([]),
    /** The most tasks at once, 1 to 1,000. Default 1. */
    maxConcurrentTasks: positiveInt(1_000).default(1),
    /** What to do, by the task's type. */
    tasks: z.record(id, z.union([handler, timedHandler])),
    /** Handles messages other than TASK_ASSIGNMENT and TASK_CANCEL. Default: they stay in the mailbox. */
    onMessage: handler.optional(),
    /**
     * Mailboxes besides its own that onMessage takes from, together with the other agents that serve them: above all
     * `capability:NAME`. At most 50. Default: none.
     */
    serve: z.array(id).max(50).default([]),
    /** What it wants for a task that is auctioned; null declines. Default: it declines all. */
    bid: handler.optional(),
    /** How often it beats, in milliseconds; lost after three times that. Default 30,000 (AGENT_HEARTBEAT_INTERVAL). */
    heartbeatIntervalMs: durationMs(50)
      .max(DAY_MS / 3, "expected at most 8 hours")
      .default(30_000),
    /** How long its tasks stay claimed when this process dies, in milliseconds; made longer while they run. Default 30,000. */
    leaseMs: durationMs(100).max(DAY_MS, "expected at most a day").default(30_000),
    /** The most that a run takes where nothing else says it, in milliseconds. Default: none, or AGENT_DEFAULT_TIMEOUT where it is set. */
    runTimeoutMs: durationMs(1).optional(),
    /** Told with every heartbeat as metrics. */
    metrics: handler.optional(),
    /** Send stacks with error reports. Default: unless NODE_ENV is "production". */
    stacks: z.boolean().optional(),
    /** What the table names begin with. Default "outbox_". */
    prefix: z.string().default("outbox_"),
  })
  .refine(({ serve, onMessage }) => serve.length === 0 || onMessage !== undefined, {
    message: "onMessage handles what comes to the mailboxes that it serves; there is none",
    path: ["serve"],
  });
export type RunnerSettings = z.output<typeof runnerOptionsSchema>;
export type RunnerOptionsInput = z.input<typeof runnerOptionsSchema>;
