import { z } from "zod";
import { preferenceList, requirementList } from "./capabilities.ts";
import { priority } from "./message-input.ts";
import { TASK_STRATEGIES, type TaskWarning } from "./tasks.ts";
import { durationMs, id, parse, plainText, positiveInt } from "./validate.ts";
import { conditionSchema, pathText } from "./workflow-paths.ts";
import { checkReferences, orderedSteps } from "./workflow-plan.ts";
import { WORKFLOW_STATES, type WorkflowState } from "./workflow-states.ts";

const MOST_STEPS = 1_000;
/** UTF-8 bytes of JSON. */
export const MOST_INPUT_BYTES = 800_000;
export const MOST_STEP_BYTES = 200_000;
export const MOST_DEFINITION_BYTES = 4_000_000;
export const MOST_OUTPUT_BYTES = 900_000;
export const MOST_OUTPUTS_BYTES = 16_000_000;
export const MOST_SIGNAL_BYTES = 65_536;

const DAY_MS = 86_400_000;

const stepId = z
  .string("expected 1 to 64 of A-Z, a-z, 0-9, _ and -")
  .regex(/^[A-Za-z0-9_-]{1,64}$/, "expected 1 to 64 of A-Z, a-z, 0-9, _ and -");

/** A reference, or one with a value for where there is nothing at its end. */
const reference = z.union([pathText, z.strictObject({ from: pathText, default: z.json() })]);

const retry = z.strictObject({
  /** How often the step is begun at most, 1 to 100. */
  maxAttempts: positiveInt(100).default(3),
  /** The pause before the second attempt, in milliseconds. Default 1,000. */
  delayMs: durationMs()
    .max(30 * DAY_MS, "expected at most 30 days")
    .default(1_000),
  /** What the pause grows by from attempt to attempt, 1 to 10. Default 2; it never exceeds a day. */
  factor: z.number().min(1).max(10).default(2),
});
const ONCE = { maxAttempts: 1, delayMs: 1_000, factor: 2 };

/** What makes a task of a step. */
const work = {
  /** What the agent dispatches by. */
  taskType: id,
  /** For people. Default "". */
  description: plainText(16_384).default(""),
  /** As for tasks: who can do it. Default: any agent. */
  requiredCapabilities: requirementList.default([]),
  preferredCapabilities: preferenceList.default([]),
  /** How the agent is chosen. Default leastLoaded. */
  strategy: z.enum(TASK_STRATEGIES).optional(),
  /** How many of its agent's slots it takes. Default 1. */
  cost: positiveInt(10_000).default(1),
  priority: priority.optional(),
  /** Fixed parameters of the task. Default {}. */
  parameters: z.record(z.string(), z.unknown()).default({}),
  /** Further parameters by name, taken from the workflow's input and from earlier results. Default {}. */
  inputs: z.record(z.string().min(1).max(128), reference).default({}),
  /** How many agents may try within one attempt. Default 3. */
  maxAssignments: positiveInt(100).default(3),
  /** An attempt that takes longer fails, in milliseconds. Default: no limit. */
  timeoutMs: durationMs(1).optional(),
};

const compensationSchema = z.strictObject({
  ...work,
  /** A compensation that fails is tried again. Default: 5 attempts, 1 s apart, then twice as long each time. */
  retry: retry.default({ maxAttempts: 5, delayMs: 1_000, factor: 2 }),
});

export const SEVERITIES = ["critical", "warning", "info"] as const;
export type StepSeverity = (typeof SEVERITIES)[number];

/** What every step has. */
const common = {
  stepId,
  /** Steps that must have ended first. In the mode `dag` only. Default: none. */
  dependsOn: z.array(stepId).max(MOST_STEPS).default([]),
  /** The step is skipped unless this holds. Default: it always runs. */
  when: conditionSchema.optional(),
  /**
   * What a failure does: `critical` fails the workflow; `warning` is noted, and the workflow goes on; `info` is only
   * recorded with the step. Default critical.
   */
  severity: z.enum(SEVERITIES).default("critical"),
  /** Undoes the step when the workflow fails later: a task of its own. Default: there is nothing to undo. */
  compensation: compensationSchema.optional(),
};

const taskStep = z.strictObject({
  kind: z.literal("task").default("task"),
  ...common,
  ...work,
  /** Default: one attempt. */
  retry: retry.default(ONCE),
});

const signalStep = z.strictObject({
  kind: z.literal("signal"),
  ...common,
  /** The name of the signal that it waits for. Default: the step's id. */
  signal: id.optional(),
  /** For people: what is asked of them. Default "". */
  description: plainText(16_384).default(""),
  /** Fails when the signal does not come within this, in milliseconds. Default: it waits without end. */
  timeoutMs: durationMs(1).optional(),
});

const stepSchema = z.preprocess(
  (step) =>
    step !== null && typeof step === "object" && !("kind" in step)
      ? { kind: "task", ...step }
      : step,
  z.discriminatedUnion("kind", [taskStep, signalStep]),
);
export type WorkflowStepInput = z.input<typeof taskStep> | z.input<typeof signalStep>;
export type StepDefinition = z.output<typeof taskStep> | z.output<typeof signalStep>;
export type Compensation = z.output<typeof compensationSchema>;
export type RetryPlan = z.output<typeof retry>;

export const WORKFLOW_MODES = ["sequential", "parallel", "dag"] as const;
export type WorkflowMode = (typeof WORKFLOW_MODES)[number];

export const workflowSchema = z
  .strictObject({
    /** Starting the same id again returns the workflow that is there. Default: 128 random bits. */
    workflowId: id.optional(),
    workflowType: id,
    /** One after the other, all at once, or by `dependsOn`. Default sequential. */
    mode: z.enum(WORKFLOW_MODES).default("sequential"),
    /** 1 to 1,000. */
    steps: z
      .array(stepSchema)
      .min(1, "expected at least one step")
      .max(MOST_STEPS, `expected at most ${MOST_STEPS} steps`),
    /** What references to `$.input` find: any JSON up to 800,000 bytes. Default {}. */
    input: z.unknown().optional(),
    contextId: id.optional(),
    /** Of all messages to its agents. Default: the workflow's id. */
    correlationId: id.optional(),
    /** The workflow fails unless it ends within this many milliseconds. Default: no deadline. */
    deadlineMs: durationMs(1).optional(),
    /** Who the tasks belong to: a supervisor of this id must run. Default "workflows". */
    supervisorId: id.default("workflows"),
    /** What follows a critical failure: undoing what completed, or nothing. Default compensate. */
    onFailure: z.enum(["compensate", "stop"]).default("compensate"),
  })
  .superRefine((workflow, context) => {
    if (orderedSteps(workflow, context)) checkReferences(workflow, context);
  });
export type WorkflowInput = Omit<z.input<typeof workflowSchema>, "steps"> & {
  steps: readonly WorkflowStepInput[];
};
export type WorkflowDraft = z.output<typeof workflowSchema>;

/** Why a step, or the workflow, failed. */
export interface WorkflowFailure {
  readonly code: string;
  readonly message: string;
  readonly stepId?: string | undefined;
  readonly taskId?: string | undefined;
  readonly agentId?: string | undefined;
}

/** Failures that the engine finds itself; besides them a step fails with what its task failed with. */
export const WORKFLOW_FAILURES = {
  /** A reference leads to nothing. */
  INPUT_MISSING: "STEP_INPUT_MISSING",
  /** The task cannot be sent: too large, or refused. */
  UNSENDABLE: "STEP_UNSENDABLE",
  /** The result, or all results together, are larger than a workflow keeps. */
  OUTPUT_TOO_LARGE: "STEP_OUTPUT_TOO_LARGE",
  /** The signal did not come in time. */
  SIGNAL_TIMEOUT: "SIGNAL_TIMEOUT",
  /** The task is gone without an end. */
  TASK_MISSING: "STEP_TASK_MISSING",
  /** The workflow took longer than its deadlineMs. */
  DEADLINE: "WORKFLOW_DEADLINE",
  CANCELED: "WORKFLOW_CANCELED",
} as const;

export const STEP_STATES = [
  "pending",
  "running",
  "waiting",
  "stopping",
  "completed",
  "failed",
  "skipped",
  "canceled",
] as const;
/** `waiting`: for its next attempt. `stopping`: its task is being canceled. */
export type StepState = (typeof STEP_STATES)[number];

/** How a step, or its compensation, stands. */
export interface StepProgress {
  readonly state: StepState;
  /** How often it was begun. */
  readonly attempt: number;
  /** The task of the attempt under way, or of the last one. */
  readonly taskId: string | null;
  /** When it is tried again, or its signal is given up. */
  readonly dueAt: number | null;
  readonly error: WorkflowFailure | null;
  readonly startedAt: number | null;
  readonly finishedAt: number | null;
}

export interface WorkflowStep extends StepProgress {
  readonly stepId: string;
  readonly kind: "task" | "signal";
  /** Null for a signal. */
  readonly taskType: string | null;
  /** The name of the signal that it waits for; null for a task. */
  readonly signal: string | null;
  readonly dependsOn: readonly string[];
  readonly severity: StepSeverity;
  readonly result: unknown;
  /** Its place among the steps that completed, from 1 on; null before. */
  readonly completion: number | null;
  /** Null while nothing was undone. */
  readonly compensation: StepProgress | null;
}

export interface WorkflowSummary {
  readonly workflowId: string;
  readonly workflowType: string;
  readonly mode: WorkflowMode;
  readonly supervisorId: string;
  readonly state: WorkflowState;
  /** Why it failed, was canceled, or could not be undone. */
  readonly failure: WorkflowFailure | null;
  readonly contextId: string | null;
  readonly correlationId: string | null;
  readonly onFailure: "compensate" | "stop";
  /** `afterSeq` of list. */
  readonly seq: number;
  readonly createdAt: number;
  readonly deadlineAt: number | null;
  readonly finishedAt: number | null;
}

export interface Workflow extends WorkflowSummary {
  readonly input: unknown;
  readonly steps: readonly WorkflowStep[];
  /** What the steps brought, by step. */
  readonly result: Readonly<Record<string, unknown>>;
  /** Failures of critical steps and of compensations. */
  readonly errors: readonly WorkflowFailure[];
  /** Failures of steps of the severity `warning`, and what agents warned of. */
  readonly warnings: readonly (WorkflowFailure | (TaskWarning & { readonly stepId: string }))[];
}

export const listWorkflowsSchema = z.strictObject({
  state: z.enum(WORKFLOW_STATES).optional(),
  workflowType: id.optional(),
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
  /** Continue after this workflow's `seq`. Default 0. */
  afterSeq: z.number().int().min(0).default(0),
});
export type ListWorkflowsOptions = z.input<typeof listWorkflowsSchema>;
export type WorkflowFilter = z.output<typeof listWorkflowsSchema>;

export const cancelWorkflowSchema = z.strictObject({
  /** For people; up to 1,024 characters. Default "canceled". */
  reason: plainText(1_024).default("canceled"),
  /** Undo what completed. Default false. */
  compensate: z.boolean().default(false),
});
export type CancelWorkflowOptions = z.input<typeof cancelWorkflowSchema>;

export const retryWorkflowSchema = z.strictObject({
  /** Go on from this step: it and all that depend on it run again. Default: what did not complete. */
  fromStep: stepId.optional(),
  /** The new deadline, in milliseconds from now. Default: that of the start, beginning anew. */
  deadlineMs: durationMs(1).optional(),
});
export type RetryWorkflowOptions = z.input<typeof retryWorkflowSchema>;

export const signalOptionsSchema = z.strictObject({
  /** Who sends it, for the record. Default: nobody is named. */
  from: id.optional(),
});
export type SignalOptions = z.input<typeof signalOptionsSchema>;

export const waitWorkflowMs = durationMs().default(300_000);

export const workflowIdOf = (value: unknown): string => parse(id, value, "workflowId");
export const signalNameOf = (value: unknown): string => parse(id, value, "name");
