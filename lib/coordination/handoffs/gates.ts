import { z } from "zod";
import { errorRecord, GateFailed } from "../../errors.ts";
import type { AgentInfo } from "../../protocol/agents.ts";
import type { GateWarning, HandoffDraft } from "../../protocol/handoffs.ts";
import type { Task } from "../../protocol/tasks.ts";
import { durationMs, id, parse } from "../../protocol/validate.ts";
import type { MessageQueueManager } from "../../queue/manager.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { HandoffStore } from "../../store/handoffs.ts";
import type { Parts, Tx } from "../parts.ts";

/** `critical` blocks the commit, `warning` is noted on the handoff or the task, `info` is told to observers. */
export const GATE_SEVERITIES = ["critical", "warning", "info"] as const;
export type GateSeverity = (typeof GATE_SEVERITIES)[number];

/** What a gate looks at. */
export interface GateSubject {
  readonly stage: "beforeHandoff" | "beforeRespond";
  /** Who hands over, or answers. */
  readonly agentId: string;
  readonly taskId: string | null;
  /** The task as it is stored; null where there is none. */
  readonly task: Task | null;
  /** The result that is to be answered, or the deliverables that are to be handed over. */
  readonly output: unknown;
  /** The sheet that is to be handed over; before a handoff only. */
  readonly handoff?: Omit<HandoffDraft, "to"> & { readonly to: string };
  /** How long the handler took, in milliseconds; before an answer only. */
  readonly elapsedMs?: number;
}

/** One thing that a gate does not like. */
export interface GateFinding {
  readonly ok: false;
  readonly message: string;
  readonly severity: GateSeverity;
  /** What to do about it. */
  readonly remedy?: string | undefined;
  /** Whether the task may be tried again; of an answer that a critical finding blocks. Default true. */
  readonly retryable?: boolean | undefined;
}

export type GateAnswer = true | GateFinding;

export interface GateContext {
  /** The transaction that the gate may block. On SQLite nothing can be read beside it. */
  readonly tx: Tx;
  readonly queue: MessageQueueManager;
  /** The agent as it is registered; undefined where it is not. */
  agent(): Promise<AgentInfo | undefined>;
  /** The task's subtasks that have not completed, by their ids, at most 100. */
  pendingSubtasks(): Promise<string[]>;
  /** Steps of a workflow that have not completed, but for the task's own; undefined: there is no such workflow. */
  pendingSteps(workflowId: string): Promise<string[] | undefined>;
  /** Aborts when the gate's time is over. */
  readonly signal: AbortSignal;
}

/** A quality gate: checked in the transaction of what it guards, before that commits. */
export interface Gate {
  /** Names it in errors and warnings. */
  readonly name: string;
  /** Milliseconds; a gate that takes longer has failed, as critical. Default 5,000. */
  readonly timeoutMs?: number | undefined;
  /** What it throws is a critical finding. */
  check(subject: GateSubject, context: GateContext): GateAnswer | Promise<GateAnswer>;
}

export interface GatesInput {
  /** Before a handoff is offered. */
  readonly beforeHandoff?: readonly Gate[] | undefined;
  /** Before the result of a task is answered. */
  readonly beforeRespond?: readonly Gate[] | undefined;
}

/** One entry of `details.failures` of a GateFailed error. */
export interface GateFailure {
  readonly gate: string;
  readonly severity: GateSeverity;
  readonly message: string;
  readonly remedy: string;
}

const REMEDY = "Mend what the gate names, then try again.";

/** How many subtasks a gate is told of. */
const MOST_PENDING = 100;

/** How long a gate may take unless it says otherwise: 1F-9's class of requests within a commit. */
const TIMEOUT_MS = 5_000;

const gate = z.custom<Gate>(
  (value) =>
    value !== null &&
    typeof value === "object" &&
    typeof (value as Gate).check === "function" &&
    id.safeParse((value as Gate).name).success &&
    durationMs(1)
      .optional()
      .safeParse((value as Gate).timeoutMs).success,
  "expected a gate: { name, check(subject, { tx }), timeoutMs? }",
);

const gatesSchema = z.strictObject({
  beforeHandoff: z.array(gate).max(100).default([]),
  beforeRespond: z.array(gate).max(100).default([]),
});
export type Gates = z.output<typeof gatesSchema>;

/** @throws ValidationFailed */
export function gatesOf(given: GatesInput | undefined): Gates {
  return parse(gatesSchema, given ?? {}, "options.gates");
}

const answerSchema = z.union([
  z.literal(true),
  z.object({
    ok: z.literal(false),
    message: z.string(),
    severity: z.enum(GATE_SEVERITIES),
    remedy: z.string().optional(),
    retryable: z.boolean().optional(),
  }),
]);

/**
 * Asks all gates, one after the other, in the transaction that they guard. Returns the warnings.
 *
 * @throws GateFailed naming every critical finding with its remedy, and the warnings beside them
 */
export async function passGates(
  { parts, store }: { readonly parts: Parts; readonly store: HandoffStore },
  trx: Tx,
  gates: readonly Gate[],
  subject: GateSubject,
): Promise<GateWarning[]> {
  const findings: (GateFinding & { readonly gate: string })[] = [];
  const { agentId, taskId } = subject;
  const context = {
    tx: trx,
    queue: parts.queue,
    agent: () => parts.agents.get(agentId, trx),
    pendingSubtasks: async () =>
      taskId === null ? [] : store.pendingParts(taskId, MOST_PENDING, trx),
    pendingSteps: (workflowId: string) => store.pendingSteps(workflowId, taskId, MOST_PENDING, trx),
  };
  for (const each of gates) {
    const answer = await ask(each, subject, context);
    if (answer !== true) findings.push({ ...answer, gate: each.name });
  }
  if (findings.length === 0) return [];
  const critical = findings.filter(({ severity }) => severity === "critical");
  const tell = () => parts.observers.emit(findings.map((finding) => eventOf(subject, finding)));
  if (critical.length === 0) {
    afterCommit(trx, tell);
    return findings
      .filter(({ severity }) => severity === "warning")
      .map(({ gate: name, message }) => ({ gate: name, message }));
  }
  // Nothing will be committed, but whoever looks for the reason finds it.
  tell();
  throw new GateFailed(
    `${subject.stage}: ${critical.map(({ gate: name, message }) => `${name}: ${message}`).join("; ")}`,
    {
      retryable: critical.every(({ retryable }) => retryable !== false),
      recoverySuggestion: [...new Set(critical.map(({ remedy = REMEDY }) => remedy))].join(" "),
      details: {
        stage: subject.stage,
        taskId: subject.taskId,
        failures: findings
          .filter(({ severity }) => severity !== "info")
          .map(({ gate: name, severity, message, remedy = REMEDY }) => {
            return { gate: name, severity, message, remedy } satisfies GateFailure;
          }),
      },
    },
  );
}

async function ask(
  { name, check, timeoutMs = TIMEOUT_MS }: Gate,
  subject: GateSubject,
  context: Omit<GateContext, "signal">,
): Promise<GateAnswer> {
  const abort = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<GateAnswer>((resolve) => {
    timer = setTimeout(() => {
      abort.abort();
      resolve(
        critical(
          `did not answer within ${timeoutMs} ms`,
          "Make the gate faster, or give it a longer timeoutMs.",
        ),
      );
    }, timeoutMs);
  });
  // One that answers late, when the transaction is over, fails for nobody.
  const asked = (async () => check(subject, { ...context, signal: abort.signal }))();
  asked.catch(() => undefined);
  try {
    const answer = answerSchema.safeParse(await Promise.race([asked, late]));
    return answer.success
      ? answer.data
      : critical(
          "answered neither true nor { ok: false, message, severity }",
          `Correct the gate "${name}".`,
        );
  } catch (error) {
    return critical(
      `threw: ${errorRecord(error).message}`,
      `Correct the gate "${name}", or what it needs.`,
    );
  } finally {
    clearTimeout(timer);
  }
}

function critical(message: string, remedy: string): GateFinding {
  return { ok: false, message, severity: "critical", remedy };
}

function eventOf(
  { stage, agentId, taskId }: GateSubject,
  { gate: name, severity, message }: GateFinding & { readonly gate: string },
) {
  return {
    type: "agent" as const,
    event: severity === "critical" ? "gate_failed" : `gate_${severity}`,
    agentId,
    at: Date.now(),
    data: { gate: name, stage, severity, message, ...(taskId === null ? {} : { task_id: taskId }) },
  };
}
