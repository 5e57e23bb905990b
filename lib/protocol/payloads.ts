import { z } from "zod";
import type { Content, MessageInput } from "./message-input.ts";
import { MessageType } from "./types.ts";
import { durationMs, id, parse, plainText } from "./validate.ts";

/** The contents of the messages that agents and supervisors exchange, in the wire's snake_case. */

const anyJson = z.unknown();

export const taskRequestSchema = z.strictObject({
  task_id: id,
  task_type: id,
  description: plainText(16_384).default(""),
  parameters: z.record(z.string(), anyJson).default({}),
  /** In their written form, such as `python >= 3.11`. */
  required_capabilities: z.array(plainText(16_384)).max(100).default([]),
  /** The fence of the assignment; a response that names an older one changes nothing. */
  assignment: z.number().int().min(0).default(0),
  /** ISO 8601, by the database's clock. */
  deadline: z.string().optional(),
  /** What an earlier assignment reached before its agent was lost. */
  progress: anyJson.optional(),
  /** The sheet of the handoff that brought the task here, or back. */
  handoff: z.record(z.string(), anyJson).optional(),
});
export type TaskRequest = z.output<typeof taskRequestSchema>;

/** How a task ended, as an agent reports it. */
export const TASK_OUTCOMES = ["completed", "failed", "rejected"] as const;

export const taskResponseSchema = z.strictObject({
  task_id: id,
  status: z.enum(TASK_OUTCOMES),
  result: anyJson.optional(),
  completion_percentage: z.number().min(0).max(100).default(100),
  execution_time_ms: durationMs().optional(),
  assignment: z.number().int().min(0).optional(),
  error_message: plainText(16_384).optional(),
  retry_possible: z.boolean().optional(),
  /** What did not keep the task from being completed. */
  warnings: z
    .array(
      z.union([
        plainText(4_096),
        z.strictObject({
          message: plainText(4_096),
          code: plainText(128).optional(),
          details: anyJson.optional(),
        }),
      ]),
    )
    .max(200)
    .optional(),
});
export type TaskResponse = z.output<typeof taskResponseSchema>;

export const errorReportSchema = z.strictObject({
  task_id: id.optional(),
  error_type: plainText(128).default("task_execution_failure"),
  error_message: plainText(16_384),
  error_code: plainText(128).optional(),
  stack_trace: plainText(65_536).optional(),
  retry_possible: z.boolean().default(true),
  suggested_action: plainText(1_024).optional(),
  assignment: z.number().int().min(0).optional(),
});
export type ErrorReport = z.output<typeof errorReportSchema>;

export const statusUpdateSchema = z.strictObject({
  status: plainText(64),
  availability: z.boolean().optional(),
  task_id: id.optional(),
  completion_percentage: z.number().min(0).max(100).optional(),
  assignment: z.number().int().min(0).optional(),
  details: z.record(z.string(), anyJson).optional(),
});
export type StatusUpdate = z.output<typeof statusUpdateSchema>;

export const heartbeatSchema = z.strictObject({
  status: plainText(64).default("active"),
  health_metrics: z.record(z.string(), anyJson).default({}),
});
export type Heartbeat = z.output<typeof heartbeatSchema>;

export const coordinationSchema = z.strictObject({
  instructions: z.union([plainText(65_536), z.record(z.string(), anyJson), z.array(anyJson)]),
  coordination_type: plainText(64).optional(),
});
export type Coordination = z.output<typeof coordinationSchema>;

/** What a builder takes besides the content: the envelope's fields. */
export type EnvelopeFields = Omit<MessageInput, "content" | "messageType" | "kind">;

function builder<S extends z.ZodType>(messageType: string, schema: S, what: string) {
  return (envelope: EnvelopeFields, content: z.input<S>): MessageInput => ({
    ...envelope,
    messageType,
    content: parse(schema, content, what) as Content,
  });
}

const taskMessage = builder(MessageType.TASK_ASSIGNMENT, taskRequestSchema, "taskRequest");

/** Assigns work. The message bears the task's id. @throws ValidationFailed, as do the other builders. */
export function taskRequest(
  envelope: EnvelopeFields,
  content: z.input<typeof taskRequestSchema>,
): MessageInput {
  const message = taskMessage(envelope, content);
  return { taskId: (message.content as TaskRequest).task_id, ...message };
}

const responseMessage = builder(MessageType.TASK_RESPONSE, taskResponseSchema, "taskResponse");

/** Reports how a task ended. */
export function taskResponse(
  envelope: EnvelopeFields,
  content: z.input<typeof taskResponseSchema>,
): MessageInput {
  const message = responseMessage(envelope, content);
  return { taskId: (message.content as TaskResponse).task_id, ...message };
}

const errorMessage = builder(MessageType.ERROR_REPORT, errorReportSchema, "errorReport");

/** Reports a failure, of a task or of the agent itself. */
export function errorReport(
  envelope: EnvelopeFields,
  content: z.input<typeof errorReportSchema>,
): MessageInput {
  const message = errorMessage(envelope, content);
  const taskId = (message.content as ErrorReport).task_id;
  return { ...(taskId === undefined ? {} : { taskId }), ...message };
}

/** Tells that an agent's status, or the progress of its task, changed. */
export const statusUpdate = builder(MessageType.STATUS_UPDATE, statusUpdateSchema, "statusUpdate");

/** Keep-alive with health metrics; agents in reach of the database call `updateHeartbeat` instead. */
export const heartbeat = builder(MessageType.HEARTBEAT, heartbeatSchema, "heartbeat");

/** Instructions to several agents. */
export const coordination = builder(MessageType.COORDINATION, coordinationSchema, "coordination");
