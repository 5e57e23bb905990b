import { AgentCommunicationError, errorRecord } from "../../errors.ts";
import type { TaskRequest } from "../../protocol/payloads.ts";
import { TASK_FAILURES } from "../../protocol/tasks.ts";
import { MessageType } from "../../protocol/types.ts";
import { parse, plainText } from "../../protocol/validate.ts";
import type { ClaimedMessage } from "../../queue/claimed.ts";
import { gateErrors } from "../handoffs/in-run.ts";
import { derivedId, TELLING, type Tx } from "../parts.ts";
import type { TaskRuns } from "./run-begin.ts";

const MOST_TEXT = 16_000;
/** Each supervisor that dies with an answer in its hands uses up one, and nobody answers a second time. */
const ANSWER_ATTEMPTS = 50;

/** What a run tells the supervisor, in the transaction that acknowledges its message. */
export class RunReport {
  readonly #message: ClaimedMessage;
  readonly #request: TaskRequest;
  readonly #shared: Pick<TaskRuns, "coordination" | "stacks">;
  readonly #since = performance.now();

  constructor(message: ClaimedMessage, request: TaskRequest, shared: TaskRuns) {
    this.#message = message;
    this.#request = request;
    this.#shared = shared;
  }

  get elapsedMs(): number {
    return Math.round(performance.now() - this.#since);
  }

  async response(tx: Tx, content: Record<string, unknown>): Promise<void> {
    const done = content.status === "completed" ? { completion_percentage: 100 } : {};
    const took = { execution_time_ms: this.elapsedMs };
    await this.#reply(tx, { ...content, ...done, ...took }, MessageType.TASK_RESPONSE, "response-");
  }

  /** A metric where the run took longer than its agent promised. */
  compareWith({ sla, observers, agentId }: Pick<TaskRuns, "sla" | "observers" | "agentId">): void {
    const value = this.elapsedMs;
    if (sla === undefined || value <= sla.targetMs) return;
    observers.emit([
      { type: "metric", agentId, metric: "sla_target_missed", value, unit: "ms", at: Date.now() },
    ]);
  }

  /** @param late the run took longer than it may, whatever its handler threw */
  async failure(tx: Tx, error: unknown, late: boolean): Promise<void> {
    const record = errorRecord(error);
    const errors = gateErrors(error);
    const retryable = (error as { retryable?: unknown } | null)?.retryable;
    const unusable =
      error instanceof AgentCommunicationError &&
      (error.code === "VALIDATION_FAILED" || error.code === "PAYLOAD_TOO_LARGE");
    const content = {
      error_type: late ? TASK_FAILURES.TIMEOUT : "task_execution_failure",
      error_code: clean(record.code),
      error_message: clean(record.message),
      ...(errors === undefined ? {} : { errors }),
      ...(this.#shared.stacks && record.stack !== undefined
        ? { stack_trace: clean(record.stack) }
        : {}),
      retry_possible: late || (!unusable && retryable !== false),
    };
    await this.#reply(tx, content, MessageType.ERROR_REPORT, "error-");
  }

  async #reply(
    tx: Tx,
    content: Record<string, unknown>,
    messageType: string,
    prefix: string,
  ): Promise<void> {
    const { task_id, assignment } = this.#request;
    // 0: a task that a message brought, and no supervisor assigned.
    const fenced = assignment === 0 ? {} : { assignment };
    const message = this.#message;
    const { messageId } = message;
    const { queue } = this.#shared.coordination.parts;
    // As a reply, but one that no full mailbox refuses: what was done would be done again.
    await queue.sendMessage(
      {
        messageId: derivedId(prefix, messageId),
        messageType,
        fromAgent: message.toAgent,
        toAgent: message.replyTo ?? message.fromAgent,
        correlationId: message.correlationId ?? messageId,
        causationId: messageId,
        contextId: message.contextId ?? undefined,
        taskId: message.taskId ?? undefined,
        maxAttempts: ANSWER_ATTEMPTS,
        content: { task_id, ...content, ...fenced },
      },
      { tx, causedBy: message, flow: TELLING },
    );
  }
}

const reportable = plainText(MOST_TEXT);

function clean(text: string): string {
  const short = text.slice(0, MOST_TEXT).replaceAll("\0", "␀").toWellFormed();
  return parse(reportable, short, "error");
}
