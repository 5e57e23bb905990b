import { z } from "zod";
import { requirementList } from "./capabilities.ts";
import { priority } from "./message-input.ts";
import type { EndState } from "./states.ts";
import { priorityName } from "./types.ts";
import { durationMs, id, jsonText, parse, plainText, positiveInt } from "./validate.ts";

/**
 * Handoffs: one agent passes its work to another, with a sheet of what was done, in which state the data is, and
 * what the other is to do. The legal moves are data; the store turns them into the WHERE of a compare-and-set.
 */

export const HANDOFF_STATES = [
  "offered",
  "accepted",
  "active",
  "completed",
  "rejected",
  "returned",
  "withdrawn",
] as const;

export type HandoffState = (typeof HANDOFF_STATES)[number];

const MOVES: Record<HandoffState, readonly HandoffState[]> = {
  offered: ["accepted", "rejected", "returned", "withdrawn"],
  accepted: ["active", "completed", "returned"],
  active: ["completed", "returned"],
  completed: [],
  rejected: [],
  returned: [],
  withdrawn: [],
};

export function isHandoffEnd(state: HandoffState): boolean {
  return MOVES[state].length === 0;
}

/** The states from which a move to `to` is legal. */
export function handoffSourcesOf(to: HandoffState): readonly HandoffState[] {
  return HANDOFF_STATES.filter((from) => MOVES[from].includes(to));
}

/** What the giver says of the work as it is. */
export interface HandoffContext {
  readonly accomplished: readonly string[];
  readonly dataState: string | null;
  readonly warnings: readonly string[];
}

/** A gate that found something to say, and let the work pass. */
export interface GateWarning {
  readonly gate: string;
  readonly message: string;
}

/** A handoff as the database has it. Instants are milliseconds since the epoch, by the database's clock. */
export interface Handoff {
  readonly handoffId: string;
  readonly from: string;
  readonly to: string;
  /** What the target had to be able to do, where it was looked for; null where it was named. */
  readonly requiredCapabilities: readonly string[] | null;
  /** Null: it concerns a conversation, or nothing but itself. */
  readonly taskId: string | null;
  /** Of the task: the giver's while it is offered, then the target's. */
  readonly assignment: number | null;
  readonly contextId: string | null;
  readonly correlationId: string | null;
  readonly reason: string;
  /** Whatever the target needs to go on, as the giver wrote it. */
  readonly currentState: unknown;
  readonly context: HandoffContext;
  readonly deliverables: Readonly<Record<string, unknown>>;
  readonly actionsRequired: readonly string[];
  readonly priority: number;
  readonly estimatedEffort: string | null;
  readonly state: HandoffState;
  /** What was said when it was accepted, rejected, returned or withdrawn. */
  readonly note: string | null;
  /** How its task ended; null where it has none, or was not there to the end. */
  readonly outcome: EndState | "handed_on" | null;
  /** What gates had to say about it. */
  readonly warnings: readonly GateWarning[];
  /** The message that offered it. */
  readonly messageId: string;
  /** Grows with every handoff; `afterSeq` of `list`. */
  readonly seq: number;
  readonly createdAt: number;
  /** Not accepted by then, it goes back to the giver. */
  readonly dueAt: number;
  readonly acceptedAt: number | null;
  readonly startedAt: number | null;
  readonly endedAt: number | null;
}

/** All of the sheet together: an assignment carries it beside the task's parameters (800,000 bytes). */
const MOST_SHEET_BYTES = 65_536;
const line = plainText(4_096);
const lines = z
  .union([line, z.array(line).max(100, "expected at most 100 entries")])
  .transform((text) => (typeof text === "string" ? [text] : text));

const handoffContextSchema = z.strictObject({
  /** What was done, a text or up to 100 of them. Default: nothing. */
  accomplished: lines.default([]),
  /** In which state the data is. */
  dataState: line.optional(),
  /** What the target is to be careful about. Default: nothing. */
  warnings: lines.default([]),
});

/** What a giver writes on the sheet. */
const sheet = {
  /** Why, in a word or a sentence: `expertise_required`. */
  reason: plainText(1_024).min(1, "expected a reason"),
  /** Any JSON that the target goes on from. Default null. */
  currentState: z.unknown().optional(),
  context: handoffContextSchema.prefault({}),
  /** What there is to take over, by name. Default {}. */
  deliverables: z.record(z.string().max(128), z.unknown()).default({}),
  /** What the target is to do, a text or up to 100 of them. Default: nothing. */
  actionsRequired: lines.default([]),
  /** As for messages: High, Medium, Low and the like, or 0 to 100. Default: the task's, else NORMAL. */
  priority: priority.optional(),
  /** For people: `<5 seconds`. */
  estimatedEffort: plainText(255).optional(),
  /** An offer that nobody accepts within this many milliseconds goes back. Default 300,000. */
  dueMs: durationMs(1).default(300_000),
};

const target = {
  /** Who is to take over. */
  to: id.optional(),
  /** Instead of `to`: the least loaded agent with room that meets all of these; as a task's requiredCapabilities. */
  requires: requirementList
    .refine((list) => list.length > 0, "expected at least one requirement")
    .optional(),
};

const oneTarget = {
  check: (value: { to?: unknown; requires?: unknown }) =>
    (value.to === undefined) !== (value.requires === undefined),
  message: "give either to or requires",
};

export const handoffSchema = z
  .strictObject({
    ...sheet,
    ...target,
    /** Sending the same id again returns the handoff that is there. Default: 128 random bits. */
    handoffId: id.optional(),
    /** Who gives. */
    from: id,
    /** The task that is handed over; the giver must have it. Default: none. */
    taskId: id.optional(),
    /** The conversation that it belongs to. Default: the task's. */
    contextId: id.optional(),
    correlationId: id.optional(),
  })
  .refine(oneTarget.check, { message: oneTarget.message, path: ["to"] });
export type HandoffInput = z.input<typeof handoffSchema>;
export type HandoffDraft = z.output<typeof handoffSchema>;

/** What a handler says when it hands its own task over. */
export type TaskHandoffInput = Omit<HandoffInput, "from" | "taskId" | "contextId">;

export const handoffListSchema = z.strictObject({
  state: z.enum(HANDOFF_STATES).optional(),
  from: id.optional(),
  to: id.optional(),
  taskId: id.optional(),
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
  /** Continue after this handoff's `seq`. Default 0. */
  afterSeq: z.number().int().min(0).default(0),
});
export type ListHandoffsOptions = z.input<typeof handoffListSchema>;
export type HandoffFilter = z.output<typeof handoffListSchema>;

export const handoffNote = plainText(1_024).optional();
export const handoffReason = plainText(1_024).min(1, "expected a reason");
export const acceptWaitMs = durationMs().max(3_600_000, "expected at most an hour").default(0);

export const handoffIdOf = (value: unknown): string => parse(id, value, "handoffId");

/** Checks that the parts of the sheet can be stored, and that all of it is small enough to travel. */
export function sheetTexts(draft: HandoffDraft) {
  const context = {
    accomplished: draft.context.accomplished,
    dataState: draft.context.dataState ?? null,
    warnings: draft.context.warnings,
  };
  const parts = {
    current_state: draft.currentState ?? null,
    context,
    deliverables: draft.deliverables,
    actions_required: draft.actionsRequired,
  };
  jsonText(parts, "handoff", MOST_SHEET_BYTES);
  return {
    current_state: parts.current_state === null ? null : JSON.stringify(parts.current_state),
    context: JSON.stringify(context),
    deliverables: JSON.stringify(draft.deliverables),
    actions_required: JSON.stringify(draft.actionsRequired),
  };
}

/** The sheet as messages carry it, in the wire's snake_case. */
export function handoffWire(handoff: Handoff): Record<string, unknown> {
  const { accomplished, dataState, warnings } = handoff.context;
  return {
    handoff_id: handoff.handoffId,
    from_agent: handoff.from,
    to_agent: handoff.to,
    ...(handoff.taskId === null ? {} : { task_id: handoff.taskId }),
    reason: handoff.reason,
    current_state: handoff.currentState,
    context: { accomplished, data_state: dataState, warnings },
    deliverables: handoff.deliverables,
    actions_required: handoff.actionsRequired,
    priority: priorityName(handoff.priority),
    ...(handoff.estimatedEffort === null ? {} : { estimated_effort: handoff.estimatedEffort }),
    ...(handoff.warnings.length === 0 ? {} : { warnings: handoff.warnings }),
    ...(handoff.note === null ? {} : { note: handoff.note }),
    state: handoff.state,
    created_at: new Date(handoff.createdAt).toISOString(),
    due_at: new Date(handoff.dueAt).toISOString(),
  };
}

/** The sheet of a handoff, as the agent gets it with its task. */
export interface ReceivedHandoff
  extends Pick<
    Handoff,
    "handoffId" | "from" | "to" | "reason" | "currentState" | "context" | "deliverables"
  > {
  readonly actionsRequired: readonly string[];
  readonly estimatedEffort: string | null;
  /** `accepted`: it was handed over to this agent. `rejected`, `returned`, `withdrawn`: what it gave came back. */
  readonly state: HandoffState;
  /** What was said about it. */
  readonly note: string | null;
}

/** Reads what `handoffWire` wrote; null where there is none. */
export function receivedHandoff(
  wire: Readonly<Record<string, unknown>> | undefined,
): ReceivedHandoff | null {
  if (wire === undefined) return null;
  const context = (wire.context ?? {}) as Record<string, unknown>;
  return {
    handoffId: String(wire.handoff_id),
    from: String(wire.from_agent),
    to: String(wire.to_agent),
    reason: String(wire.reason),
    currentState: wire.current_state ?? null,
    context: {
      accomplished: (context.accomplished ?? []) as string[],
      dataState: (context.data_state as string | undefined) ?? null,
      warnings: (context.warnings ?? []) as string[],
    },
    deliverables: (wire.deliverables ?? {}) as Record<string, unknown>,
    actionsRequired: (wire.actions_required ?? []) as string[],
    estimatedEffort: (wire.estimated_effort as string | undefined) ?? null,
    state: wire.state as HandoffState,
    note: (wire.note as string | undefined) ?? null,
  };
}
