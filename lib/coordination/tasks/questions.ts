import { createHash } from "node:crypto";
import { AgentCommunicationError } from "../../errors.ts";
import {
  type AnswerResult,
  checkAnswer,
  checkAnswerSchema,
  type InputRequest,
  type InputRequestInput,
  inputRequestSchema,
  MOST_ANSWER_BYTES,
} from "../../protocol/task-inputs.ts";
import { TASK_FAILURES, type Task } from "../../protocol/tasks.ts";
import { MessagePriority, MessageType } from "../../protocol/types.ts";
import { id, jsonText, parse } from "../../protocol/validate.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { Fence } from "../../store/task-row.ts";
import {
  apart,
  callOff,
  derivedId,
  endTask,
  fenceOf,
  type Parts,
  type SweepStep,
  TELLING,
  type Tx,
  tellTask,
} from "../parts.ts";

/** A question as it was stored, and whether this call stored it. */
export interface Asked {
  readonly input: InputRequest;
  readonly first: boolean;
}

/**
 * Stores the question of a task, moves the task to input_required or auth_required, and sends INPUT_REQUEST, in one
 * commit. A question that was asked before is found again, and nothing is sent. Undefined when the fence no longer
 * holds.
 */
export async function ask(
  parts: Parts,
  trx: Tx,
  fence: Fence,
  given: InputRequestInput,
): Promise<Asked | undefined> {
  const request = parse(inputRequestSchema, given, "input");
  if (request.schema !== undefined) checkAnswerSchema(request.schema);
  const { tasks, inputs } = parts;
  const task = await tasks.lock(trx, fence.taskId);
  if (task === undefined || !isHeld(task, fence)) return undefined;
  const inputId = inputIdOf(task.taskId, request.key ?? keyOf(request));
  const before = await inputs.get(inputId, trx);
  if (before !== undefined && before.state !== "open") return { input: before, first: false };
  const state = (before ?? request).kind === "auth" ? "auth_required" : "input_required";
  // Somebody is thinking: the clock of the run stands still.
  const waiting = await tasks.report(fence, state, undefined, trx, null);
  if (waiting === undefined) return undefined;
  if (before !== undefined) return { input: before, first: false };
  const input = await inputs.insert(
    trx,
    {
      input_id: inputId,
      task_id: task.taskId,
      assignment: task.assignment,
      kind: request.kind,
      prompt: request.prompt,
      answer_schema: request.schema === undefined ? null : JSON.stringify(request.schema),
      asked_by: fence.agentId as string,
    },
    request.dueMs ?? null,
  );
  await sendQuestion(parts, trx, waiting, input, request.to);
  tellTask(parts, trx, state, waiting, {
    input_id: inputId,
    prompt: input.prompt,
    ...(input.dueAt === null ? {} : { due_at: new Date(input.dueAt).toISOString() }),
  });
  return { input, first: true };
}

const isWaiting = ({ state }: Task) => state === "input_required" || state === "auth_required";

function isHeld(task: Task, fence: Fence): boolean {
  return (
    task.finishedAt === null &&
    task.assignment === fence.assignment &&
    task.agentId === fence.agentId
  );
}

function inputIdOf(taskId: string, key: string): string {
  const named = createHash("sha256").update(key).digest("hex").slice(0, 24);
  return derivedId("", taskId, `:input:${named}`);
}

/** The same question, asked again by a new run, has the same key. */
function keyOf({ kind, prompt, schema }: { kind: string; prompt: string; schema?: unknown }) {
  return JSON.stringify([kind, prompt, schema ?? null]);
}

async function sendQuestion(
  parts: Parts,
  trx: Tx,
  task: Task,
  input: InputRequest,
  to: string | undefined,
): Promise<void> {
  await parts.queue.sendMessage(
    {
      fromAgent: input.askedBy,
      toAgent: to ?? task.requestedBy ?? task.supervisorId,
      // Answers are the supervisor's to handle, whoever is asked.
      replyTo: task.supervisorId,
      messageType: MessageType.INPUT_REQUEST,
      priority: Math.max(task.priority, MessagePriority.HIGH),
      content: {
        task_id: task.taskId,
        task_type: task.taskType,
        input_id: input.inputId,
        kind: input.kind,
        prompt: input.prompt,
        ...(input.schema === null ? {} : { schema: input.schema }),
        ...(input.dueAt === null ? {} : { due: new Date(input.dueAt).toISOString() }),
      },
      taskId: task.taskId,
      correlationId: task.correlationId ?? undefined,
      contextId: task.contextId ?? undefined,
      hops: 0,
    },
    { tx: trx, flow: TELLING },
  );
}

/**
 * Answers a question: the last answer that a task waits for lets it go on. Of two answers, in whatever processes,
 * one counts.
 *
 * @throws ValidationFailed when the answer does not meet the schema, AgentCommunicationError UNKNOWN_INPUT
 */
export async function answerQuestion(
  parts: Parts,
  trx: Tx,
  inputId: string,
  answer: unknown,
  by: string,
): Promise<AnswerResult & { readonly task?: Task | undefined }> {
  const { tasks, inputs } = parts;
  const known = await inputs.get(parse(id, inputId, "inputId"), trx);
  if (known === undefined) {
    throw new AgentCommunicationError("UNKNOWN_INPUT", `there is no question "${inputId}"`, {
      details: { inputId },
    });
  }
  const answeredBy = parse(id, by, "by");
  const text = jsonText(answer ?? null, "answer", MOST_ANSWER_BYTES);
  if (known.state === "open") checkAnswer(known.schema, answer);
  const task = await tasks.lock(trx, known.taskId);
  const over = task === undefined || task.finishedAt !== null;
  const answered = over ? undefined : await inputs.answer(trx, inputId, text, answeredBy);
  if (answered === undefined) {
    const input = (await inputs.get(inputId, trx)) ?? known;
    const outcome =
      input.state === "answered" ? "already_answered" : over ? "task_ended" : "lapsed";
    if (task !== undefined) {
      tellTask(parts, trx, "stale", task, { input_id: inputId, from: by, reason: outcome });
    }
    return { outcome, input };
  }
  const last = !(await inputs.anyOpen(trx, known.taskId));
  const moved = last ? await tasks.answered(trx, known.taskId) : undefined;
  if (moved?.agentId === null) afterCommit(trx, parts.freed);
  const told = moved ?? (task as Task);
  tellTask(parts, trx, "input_answered", told, { input_id: inputId, answered_by: answeredBy });
  return { outcome: "answered", input: answered, task: told };
}

/** How many questions one sweep looks at. */
const LAPSED = 100;
const PAGE = 200;

/** Fails tasks that nobody answered in time, and closes what nobody needs an answer to any more. */
export class QuestionSweep implements SweepStep {
  readonly #parts: Parts;
  /** Where the next look for closed ones goes on: a hint, nothing depends on it. */
  #after = 0;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async sweep(): Promise<void> {
    const { tasks, inputs } = this.#parts;
    for (const input of await inputs.overdue(LAPSED)) {
      await apart(this.#parts, () => tasks.transaction((trx) => this.#lapse(trx, input)));
    }
    const { next, taskIds } = await inputs.strays(this.#after, PAGE);
    this.#after = next;
    for (const taskId of taskIds) {
      await tasks.transaction((trx) => inputs.closeOf(trx, taskId));
    }
  }

  async #lapse(trx: Tx, { inputId, taskId, prompt, assignment }: InputRequest): Promise<void> {
    const { tasks, inputs } = this.#parts;
    const task = await tasks.lock(trx, taskId);
    if ((await inputs.lapse(trx, inputId)) === undefined) return;
    if (task === undefined || task.finishedAt !== null) return;
    // Who has it by now does not wait for what an earlier agent asked, unless it has asked that again.
    if (task.assignment !== assignment && !isWaiting(task)) return;
    const error = {
      code: TASK_FAILURES.INPUT,
      message: `nobody answered in time: ${prompt.slice(0, 200)}`,
      ...(task.agentId === null ? {} : { agentId: task.agentId }),
    };
    const failed = await endTask(this.#parts, trx, fenceOf(task), "failed", { error });
    if (failed === undefined) return;
    await callOff(this.#parts, trx, failed, error.message);
  }
}
