import { z } from "zod";
import { auctionSchema } from "./auctions.ts";
import { type Preference, preferenceList, requirementList } from "./capabilities.ts";
import { priority } from "./message-input.ts";
import { type EndState, TASK_STATES, type TaskState } from "./states.ts";
import { durationMs, id, parse, plainText, positiveInt } from "./validate.ts";

/** Why a task failed, or why its last assignment did. */
export interface TaskFailure {
  /** What the agent reported (`task_execution_failure`), or one of TASK_FAILURES. */
  readonly code: string;
  readonly message: string;
  /** Who had the task. */
  readonly agentId?: string | undefined;
  readonly stack?: string | undefined;
}

/** Failures that the supervisor finds itself. */
export const TASK_FAILURES = {
  /** Its deadline passed. */
  DEADLINE: "TASK_DEADLINE",
  /** Its agent stopped beating, went offline, or was deregistered. */
  AGENT_LOST: "AGENT_LOST",
  /** Its message ended in the dead letters, for example because it killed its worker at every run. */
  UNDELIVERED: "TASK_UNDELIVERED",
  /** It can never be sent: larger than a message may be. */
  UNSENDABLE: "TASK_UNSENDABLE",
  /** A run took longer than it may; another agent tries. */
  TIMEOUT: "TASK_TIMEOUT",
  /** Nobody answered in time what its agent asked. */
  INPUT: "INPUT_TIMEOUT",
  /** Its agent acknowledged it and was not heard of it since. */
  UNANSWERED: "TASK_UNANSWERED",
  /** A task that it depends on did not complete. */
  DEPENDENCY: "DEPENDENCY_FAILED",
} as const;

export interface TaskProgress {
  /** 0 to 100, or null where the agent told none. */
  readonly percentage: number | null;
  readonly data: unknown;
}

/** A task as the database has it. Instants are milliseconds since the epoch, by the database's clock. */
export interface Task {
  readonly taskId: string;
  readonly taskType: string;
  readonly description: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  /** In their written form, such as `python >= 3.11`. */
  readonly requiredCapabilities: readonly string[];
  readonly priority: number;
  /** `submitted` means parked: no agent has it. */
  readonly state: TaskState;
  readonly supervisorId: string;
  /** Null while no agent has it. */
  readonly agentId: string | null;
  /** Who had it before it was given back. */
  readonly previousAgentId: string | null;
  /** How often it was assigned: the fence. A result that belongs to an earlier assignment changes nothing. */
  readonly assignment: number;
  readonly maxAssignments: number;
  /** The message of the current assignment. */
  readonly messageId: string | null;
  readonly progress: TaskProgress | null;
  /** What the agent returned; null before the end. */
  readonly result: unknown;
  readonly lastError: TaskFailure | null;
  readonly contextId: string | null;
  readonly correlationId: string | null;
  /** Grows with every task; `afterSeq` of listTasks. */
  readonly seq: number;
  readonly createdAt: number;
  readonly assignedAt: number | null;
  readonly startedAt: number | null;
  readonly deadlineAt: number | null;
  readonly finishedAt: number | null;
  /** How many slots of its agent it takes. */
  readonly cost: number;
  readonly preferredCapabilities: readonly Preference[];
  readonly strategy: TaskStrategy;
  /** The task that it is a part of. */
  readonly parentTaskId: string | null;
  /** Who is asked when its agent needs input. */
  readonly requestedBy: string | null;
  /** How many of the tasks that it depends on have not completed; no agent gets it before. */
  readonly waitsFor: number;
  /** Since when it is paused; null while it is not. */
  readonly pausedAt: number | null;
  /** What its agent had to say about a task that is done. */
  readonly warnings: readonly TaskWarning[];
  /** The most that one run may take, as whoever assigned it said; null: as its agent, its class or the environment say. */
  readonly runTimeoutMs: number | null;
  /** When the run under way must have ended; null without a limit, and while it does not run. */
  readonly runDeadlineAt: number | null;
  /** The class of its work, which limits a run where neither the task nor its agent does; null: none. */
  readonly operation: TaskOperation | null;
  /** The terms of its auction; null where it is not auctioned. */
  readonly auction: unknown;
  /** Until when agents may bid for it; null when nobody may. */
  readonly auctionEndsAt: number | null;
}

/** How long one run of a task of this class may take, in milliseconds. */
export const OPERATION_MS = {
  request: 30_000,
  event: 5_000,
  file: 120_000,
  batch: 300_000,
  task: 300_000,
} as const;
export type TaskOperation = keyof typeof OPERATION_MS;
const TASK_OPERATIONS = Object.keys(OPERATION_MS) as readonly TaskOperation[];

/** Something that did not keep a task from being completed. */
export interface TaskWarning {
  readonly message: string;
  readonly code?: string | undefined;
  readonly details?: unknown;
}

/** How the agent of a task is chosen: as in findBestAgent, or by an auction. */
export const TASK_STRATEGIES = [
  "leastLoaded",
  "roundRobin",
  "weighted",
  "sticky",
  "auction",
] as const;
export type TaskStrategy = (typeof TASK_STRATEGIES)[number];

/** A task that has ended. */
export type FinishedTask = Task & { readonly state: EndState; readonly finishedAt: number };

export interface CoordinationStats {
  /** No agent has them yet. */
  readonly parked: number;
  /** Sent to an agent that has not begun. */
  readonly assigned: number;
  readonly working: number;
  /** Waiting for input or for authorization. */
  readonly waiting: number;
  /** True where one of the numbers above stands for "at least 10,000": counting stops there. */
  readonly capped: boolean;
  /** Ended within `windowMs`, the last 10,000 at most, by how they ended. */
  readonly completed: number;
  readonly failed: number;
  readonly canceled: number;
  readonly rejected: number;
  /** completed / all that ended within the window, 0 to 1; null when nothing ended. */
  readonly completionRate: number | null;
  /** The mean time from a task's arrival to its completion, within the window; null when none completed. */
  readonly averageDurationMs: number | null;
  readonly windowMs: number;
}

export interface PerformanceMetrics {
  /** Messages processed in the last minute. */
  readonly messageThroughput: number;
  /** The mean load of all agents, 0 to 1. */
  readonly agentUtilization: number;
  /** completionRate of CoordinationStats. */
  readonly taskCompletionRate: number | null;
}

const DAY_MS = 86_400_000;
export const HOUR_MS = 3_600_000;

export const supervisorOptionsSchema = z.strictObject({
  /** What the table names begin with. Default "outbox_". */
  prefix: z.string().default("outbox_"),
  /** How long ended tasks are kept, in milliseconds; null: for ever. Default 30 days. */
  taskRetentionMs: durationMs(1)
    .nullable()
    .default(30 * DAY_MS),
  /** How often the supervisor beats while it runs, in milliseconds. Default 30,000 (AGENT_HEARTBEAT_INTERVAL). */
  heartbeatIntervalMs: durationMs(50).max(DAY_MS, "expected at most a day").default(30_000),
  /** How often `run` looks for lost agents, deadlines and parked tasks, in milliseconds. Default 1,000. */
  sweepIntervalMs: durationMs(10).max(HOUR_MS, "expected at most an hour").default(1_000),
  /**
   * After how long a task is taken from an agent that acknowledged its assignment and never reported anything, in
   * milliseconds; null: never. An agent that acknowledges first and works longer has to send one STATUS_UPDATE.
   * Default 3,600,000 (an hour).
   */
  unansweredMs: durationMs(1_000).nullable().default(HOUR_MS),
  /** How long waitForTask waits unless told otherwise, in milliseconds. Default 300,000 (AGENT_DEFAULT_TIMEOUT). */
  taskTimeoutMs: durationMs().default(300_000),
});
export type SupervisorOptionsInput = z.input<typeof supervisorOptionsSchema>;
export type SupervisorSettings = z.output<typeof supervisorOptionsSchema>;

/** Less than a message may be (1 MB), because the assignment says more than the parameters. */
export const MOST_PARAMETER_BYTES = 800_000;

export const taskSchema = z.strictObject({
  /** Assigning the same id again returns the task that is there. Default: 128 random bits. */
  taskId: id.optional(),
  /** What the agent dispatches by. */
  taskType: id,
  /** For people; up to 16,384 characters. Default "". */
  description: plainText(16_384).default(""),
  /** A JSON object of up to 800,000 bytes. Default {}. */
  parameters: z.record(z.string(), z.unknown()).default({}),
  /**
   * The agent must meet all of these, at most 100: names, comparisons ("python >= 3.11", "region in (eu, us)") or
   * objects. Default: any agent will do.
   */
  requiredCapabilities: requirementList.default([]),
  /** Of several agents the one that meets more of these, by weight. Default: none. */
  preferredCapabilities: preferenceList.default([]),
  /** How the agent is chosen. Default leastLoaded. */
  strategy: z.enum(TASK_STRATEGIES).optional(),
  /** The terms, where the strategy is `auction`. Default: 5 seconds, up to 20 bidders, the lowest amount wins. */
  auction: auctionSchema.optional(),
  /** How many of its agent's slots it takes, 1 to 10,000. Default 1. */
  cost: positiveInt(10_000).default(1),
  /**
   * Tasks that must have completed before an agent gets it, at most 100: they are there already, or come in the same
   * call of assignTasks. Default: none.
   */
  dependsOn: z
    .array(id, "expected an array of task ids")
    .max(100, "expected at most 100 tasks")
    .transform((ids) => [...new Set(ids)])
    .default([]),
  /** When one of these fails, or is canceled or rejected: `fail` this task too (default), or `run` it all the same. */
  whenDependencyFails: z.enum(["fail", "run"]).default("fail"),
  /** The task that it is a part of: canceled with it. */
  parentTaskId: id.optional(),
  /** Who answers when its agent needs input. Default: its supervisor. */
  requestedBy: id.optional(),
  /** The most that one run may take, in milliseconds. Default: as its agent, its class or the environment say. */
  runTimeoutMs: durationMs(1).optional(),
  /**
   * The class of its work, which limits a run where neither `runTimeoutMs` nor its agent does: request 30 s, event
   * 5 s, file 120 s, batch and task 300 s. Default: none, because agents run for hours.
   */
  operation: z.enum(TASK_OPERATIONS as readonly [TaskOperation, ...TaskOperation[]]).optional(),
  /** As for messages: a name or 0 to 100. Default NORMAL. */
  priority: priority.optional(),
  /** Fails unless it ends within this many milliseconds from now. Default: no deadline. */
  deadlineMs: durationMs(1).optional(),
  /** How many agents may try, one after the other, 1 to 100. Default 3. */
  maxAssignments: positiveInt(100).default(3),
  contextId: id.optional(),
  correlationId: id.optional(),
});
export type TaskInput = z.input<typeof taskSchema>;

/** Tasks of one call; each is checked by itself. */
export const taskListSchema = z
  .array(z.unknown(), "expected an array of tasks")
  .max(1_000, "expected at most 1000 tasks");

export const listTasksSchema = z.strictObject({
  state: z.enum(TASK_STATES).optional(),
  agentId: id.optional(),
  supervisorId: id.optional(),
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
  /** Continue after this task's `seq`. Default 0. */
  afterSeq: z.number().int().min(0).default(0),
});
export type ListTasksOptions = z.input<typeof listTasksSchema>;
export type TaskFilter = z.output<typeof listTasksSchema>;

export const processOptionsSchema = z.strictObject({
  /** The most messages to handle, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
});
export type ProcessOptions = z.input<typeof processOptionsSchema>;

export const waitTimeoutMs = durationMs().optional();

export const cancelReason = plainText(1_024).optional();

export const runIntervalMs = durationMs(1).max(HOUR_MS, "expected at most an hour").default(1_000);

export const taskIdOf = (value: unknown): string => parse(id, value, "taskId");

/**
 * What a supervisor reads of the answers to it. Looser than the builders in payloads.ts, because agents in other
 * languages write them: unknown keys pass, `results` is `result`, statuses come in every known spelling.
 */
const answered = {
  task_id: id.optional(),
  assignment: z.number().int().min(0).optional(),
  completion_percentage: z.number().min(0).max(100).optional(),
};

const anyWarning = z.looseObject({
  message: plainText(4_096),
  code: plainText(128).optional(),
  details: z.unknown().optional(),
});

const warningText = z.union([plainText(4_096), anyWarning]);

/** @throws ValidationFailed */
export function warningOf(given: unknown): TaskWarning {
  const warning = parse(warningText, given, "warning");
  if (typeof warning === "string") return { message: warning };
  const { message, code, details } = warning;
  return {
    message,
    ...(code === undefined ? {} : { code }),
    ...(details === undefined ? {} : { details }),
  };
}

const responseContent = z.looseObject({
  ...answered,
  /** Of a task that is done. */
  warnings: z.array(warningText).max(200).optional(),
  status: z.string(),
  result: z.unknown().optional(),
  results: z.unknown().optional(),
  execution_time_ms: z.number().min(0).optional(),
  error_type: z.string().optional(),
  error_message: z.string().optional(),
  retry_possible: z.boolean().optional(),
});
export type ResponseContent = z.output<typeof responseContent>;

const errorContent = z.looseObject({
  ...answered,
  error_type: z.string().default("task_execution_failure"),
  error_message: z.string().default(""),
  stack_trace: z.string().optional(),
  retry_possible: z.boolean().default(true),
});
export type ErrorContent = z.output<typeof errorContent>;

const statusContent = z.looseObject({
  ...answered,
  status: z.string(),
  availability: z.boolean().optional(),
  details: z.unknown().optional(),
});
export type StatusContent = z.output<typeof statusContent>;

const heartbeatContent = z.looseObject({
  status: z.string().optional(),
  health_metrics: z.record(z.string(), z.unknown()).optional(),
});

/** @throws ValidationFailed, as do the next three. */
export const readResponse = (content: unknown): ResponseContent =>
  parse(responseContent, content, "content");
export const readError = (content: unknown): ErrorContent =>
  parse(errorContent, content, "content");
export const readStatus = (content: unknown): StatusContent =>
  parse(statusContent, content, "content");
export const readHeartbeat = (content: unknown) => parse(heartbeatContent, content, "content");
