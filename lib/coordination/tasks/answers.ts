import { AgentCommunicationError, ValidationFailed } from "../../errors.ts";
import { AGENT_STATUSES, type AgentStatus } from "../../protocol/agents.ts";
import { readAnswer } from "../../protocol/task-inputs.ts";
import {
  type ResponseContent,
  type Task,
  type TaskWarning,
  warningOf,
} from "../../protocol/tasks.ts";
import { MessageType } from "../../protocol/types.ts";
import type { ClaimedMessage } from "../../queue/claimed.ts";
import type { Parts, Tx } from "../parts.ts";
import { answerQuestion } from "./questions.ts";

const MOST_WARNINGS = 100;

/** News for whoever cares: what they tell stands in the tables. */
export const NEWS: readonly string[] = [
  MessageType.INPUT_REQUEST,
  MessageType.HANDOFF_ACCEPTED,
  MessageType.HANDOFF_REJECTED,
  MessageType.HANDOFF_RETURNED,
  MessageType.HANDOFF_COMPLETED,
  MessageType.HANDOFF_WITHDRAWN,
  MessageType.CHANGE_REQUEST_UPDATED,
  MessageType.SYSTEM_MAINTENANCE,
  MessageType.SYSTEM_READY,
];

/** The message can never be handled: it goes to the dead letters with this reason. */
export class Unusable extends Error {
  readonly reason: string;
  constructor(reason: string, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** Whether an answer without an assignment number belongs to the current one, by the message it answers. */
export function answersCurrent(message: ClaimedMessage, task: Task): boolean {
  const answered =
    message.causationId ?? /^(?:response|error)-(.+)$/.exec(message.messageId)?.[1] ?? null;
  // An agent that echoes nothing is believed: it is the one that has the task.
  return (
    answered === null || answered === task.messageId || !answered.startsWith(`${task.taskId}:`)
  );
}

export function answersQuestion({ content }: ClaimedMessage): boolean {
  return typeof (content as { input_id?: unknown }).input_id === "string";
}

/** What an agent noted. One that calls the task done with a warning, and says no more, has its message noted. */
export function warningsOf({ status, warnings = [], ...content }: ResponseContent): TaskWarning[] {
  if (warnings.length > 0) return warnings.slice(0, MOST_WARNINGS).map(warningOf);
  if (status.trim().toLowerCase() !== "warning") return [];
  const said = [content.error_message, content.message].find((text) => typeof text === "string");
  return [{ message: (said ?? "completed with a warning").slice(0, 4_096) }];
}

export function agentStatus(word: string | undefined): AgentStatus | undefined {
  return AGENT_STATUSES.find((status) => status === word?.toLowerCase());
}

export function read<T>(reader: (content: unknown) => T, message: ClaimedMessage): T {
  try {
    return reader(message.content);
  } catch (error) {
    if (error instanceof ValidationFailed) throw new Unusable("schema", error.message);
    throw error;
  }
}

/** An answer to what an agent asked. One that came too late changes nothing. */
export async function answerByMessage(
  parts: Parts,
  trx: Tx,
  message: ClaimedMessage,
): Promise<void> {
  const { input_id, answer } = read(readAnswer, message);
  try {
    await answerQuestion(parts, trx, input_id, answer, message.fromAgent);
  } catch (error) {
    if (!(error instanceof AgentCommunicationError)) throw error;
    if (error.code === "UNKNOWN_INPUT") throw new Unusable("unknown_input", error.message);
    if (error.code === "VALIDATION_FAILED") throw new Unusable("schema", error.message);
    throw error;
  }
}
