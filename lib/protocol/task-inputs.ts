import { z } from "zod";
import { ValidationFailed } from "../errors.ts";
import { durationMs, id, parse, plainText, positiveInt, shown } from "./validate.ts";

/** What an agent asks for: an answer, or that somebody lets it in. */
export const INPUT_KINDS = ["input", "auth"] as const;
export type InputKind = (typeof INPUT_KINDS)[number];

/** A question that the agent of a task asks, as the database has it. Instants are the database's. */
export interface InputRequest {
  /** Follows from the task and the key: the same question is asked once, however often its agent starts anew. */
  readonly inputId: string;
  readonly taskId: string;
  /** The assignment that asked. */
  readonly assignment: number;
  readonly kind: InputKind;
  readonly prompt: string;
  /** The JSON Schema that an answer must meet; null: any JSON will do. */
  readonly schema: Readonly<Record<string, unknown>> | null;
  readonly askedBy: string;
  readonly askedAt: number;
  /** When the question lapses, and the task fails with it; null: never. */
  readonly dueAt: number | null;
  /** `closed`: nobody answered before it lapsed, or before its task ended. */
  readonly state: "open" | "answered" | "closed";
  readonly answeredBy: string | null;
  readonly answeredAt: number | null;
  readonly answer: unknown;
  readonly seq: number;
}

/**
 * What became of an answer. `already_answered`, `lapsed` (its time had passed) and `task_ended` changed nothing;
 * `input` is the question as it stands.
 */
export interface AnswerResult {
  readonly outcome: "answered" | "already_answered" | "lapsed" | "task_ended";
  readonly input: InputRequest;
}

/** Levels of a JSON Schema: enough for a form, and no work for a stack. */
const MOST_SCHEMA_BYTES = 65_536;
export const MOST_ANSWER_BYTES = 262_144;

export const inputRequestSchema = z.strictObject({
  /** What is asked, for people; up to 16,384 characters. */
  prompt: plainText(16_384).min(1, "expected a question"),
  /**
   * What an answer must look like, in JSON Schema: `type`, `enum`, `const`, `properties`, `required`, `items`,
   * `additionalProperties`, limits and `anyOf`. Default: any JSON.
   */
  schema: z.record(z.string(), z.unknown()).optional(),
  /** "auth": the task becomes auth_required instead of input_required. Default "input". */
  kind: z.enum(INPUT_KINDS).default("input"),
  /** Who is sent INPUT_REQUEST. Default: the task's `requestedBy`, else its supervisor. */
  to: id.optional(),
  /** The task fails with INPUT_TIMEOUT when nobody answers within so many milliseconds. Default: it waits. */
  dueMs: durationMs(1).optional(),
  /** Names the question within its task. Default: by what it asks. */
  key: plainText(256).optional(),
});
export type InputRequestInput = z.input<typeof inputRequestSchema>;

export const listInputsSchema = z.strictObject({
  taskId: id.optional(),
  /** Also what was answered, or closed. Default: open questions only. */
  all: z.boolean().default(false),
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
  /** Continue after this `seq`. Default 0. */
  afterSeq: z.number().int().min(0).default(0),
});
export type ListInputsOptions = z.input<typeof listInputsSchema>;
export type InputFilter = z.output<typeof listInputsSchema>;

/** An answer that came as a message. Looser than what the library writes: others write it too. */
const answerContent = z.looseObject({ input_id: id, answer: z.unknown() });
export const readAnswer = (content: unknown) => parse(answerContent, content, "content");

/** @throws ValidationFailed for what is no JSON Schema, or one that is not understood */
export function checkAnswerSchema(schema: Readonly<Record<string, unknown>>): void {
  if (JSON.stringify(schema).length > MOST_SCHEMA_BYTES) {
    throw new ValidationFailed(`input.schema: expected at most ${MOST_SCHEMA_BYTES} bytes`);
  }
  compiled(schema);
}

/** @throws ValidationFailed when the answer does not meet the schema */
export function checkAnswer(schema: InputRequest["schema"], answer: unknown): void {
  if (schema !== null) parse(compiled(schema), answer, "answer");
}

function compiled(schema: Readonly<Record<string, unknown>>): z.ZodType {
  // Without a type, what only objects have would be passed over.
  const object = "properties" in schema || "required" in schema;
  const typed = object && !("type" in schema) ? { type: "object", ...schema } : schema;
  try {
    return z.fromJSONSchema(typed as Parameters<typeof z.fromJSONSchema>[0]);
  } catch (cause) {
    const { message } = cause as Error;
    throw new ValidationFailed(`input.schema: ${message}, got ${shown(schema)}`, { cause });
  }
}
