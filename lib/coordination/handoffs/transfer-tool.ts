import { createHash } from "node:crypto";
import { z } from "zod";
import { AgentCommunicationError, errorRecord, ValidationFailed } from "../../errors.ts";
import { given } from "../../protocol/given.ts";
import type { Handoff, HandoffInput, TaskHandoffInput } from "../../protocol/handoffs.ts";
import { durationMs, id, parse, plainText } from "../../protocol/validate.ts";
import { type ToolShapes, toolShapes } from "./tool-shapes.ts";

/** What takes the offers: `outbox.handoffs` fits. */
export interface TransferHandoffs {
  initiate(handoff: HandoffInput): Promise<Handoff & { readonly duplicate: boolean }>;
  get(handoffId: string): Promise<Handoff | null>;
}

/** The context of a task's handler fits: then its task is handed over, and its run is over. */
export interface TransferContext {
  handOff(handoff: TaskHandoffInput): Promise<Handoff & { readonly duplicate: boolean }>;
}

export interface TransferToolOptions {
  /** The agent that takes over. */
  readonly to: string;
  /** Who hands over; not with `context`. */
  readonly from?: string | undefined;
  /** Where the offers go: an outbox, its handoffs, or the context of a handler. */
  readonly outbox?: { readonly handoffs: TransferHandoffs } | undefined;
  readonly handoffs?: TransferHandoffs | undefined;
  readonly context?: TransferContext | undefined;
  /** Default `transfer_to_analysis` for the agent "analysis-agent". */
  readonly name?: string | undefined;
  /** For the model. Default: that it hands over to that agent. */
  readonly description?: string | undefined;
  /** The task that is handed over; not with `context`. Default: none. */
  readonly taskId?: string | undefined;
  readonly contextId?: string | undefined;
  /** As for `initiate`. Default 300,000. */
  readonly dueMs?: number | undefined;
  /** Waits this many milliseconds for the target's decision, so that the model is told of it. Default 0. */
  readonly waitMs?: number | undefined;
}

/** What the model is told: words, and the same as data. */
export type TransferResult =
  | {
      readonly ok: true;
      readonly status: Handoff["state"];
      readonly message: string;
      readonly handoff_id: string;
      readonly source_agent: string;
      readonly target_agent: string;
      readonly incident_id: string | null;
      readonly priority: string;
      readonly timestamp: string;
      readonly due_at: string;
      readonly duplicate: boolean;
    }
  | {
      readonly ok: false;
      readonly status: "error";
      readonly message: string;
      readonly code: string;
      readonly retryable: boolean;
      readonly recovery_suggestion: string;
    };

export interface TransferCall {
  /** The model's id of the call: the same call twice offers once. */
  readonly toolCallId?: string | undefined;
}

const PRIORITIES = ["low", "normal", "high", "critical"] as const;

const parameters = z.object({
  incident_data: z
    .record(z.string(), z.unknown())
    .describe(
      "Everything the other agent needs to go on, as an object; its `id` names the incident.",
    ),
  priority: z.enum(PRIORITIES).default("normal").describe("How urgent it is."),
  reason: z
    .string()
    .max(1_024)
    .optional()
    .describe("Why it is handed over, in a word or a sentence."),
  actions_required: z
    .array(z.string().max(4_096))
    .max(100)
    .optional()
    .describe("What the other agent is to do."),
});

/** A tool for language models that hands work over to another agent. */
export interface TransferTool extends ToolShapes {
  readonly name: string;
  readonly description: string;
  /** JSON Schema of the arguments. */
  readonly parameters: Readonly<Record<string, unknown>>;
  /** Never throws: what went wrong is told to the model. */
  execute(args: unknown, call?: TransferCall): Promise<TransferResult>;
}

const settingsSchema = z.strictObject({
  to: id,
  from: id.optional(),
  name: z
    .string()
    .regex(/^[a-zA-Z0-9_-]{1,64}$/, "expected 1 to 64 letters, digits, _ or -")
    .optional(),
  description: plainText(1_024).optional(),
  taskId: id.optional(),
  contextId: id.optional(),
  dueMs: durationMs(1).optional(),
  waitMs: durationMs().max(300_000, "expected at most five minutes").default(0),
});
type Settings = z.output<typeof settingsSchema>;

const LOOK_EVERY_MS = 100;

/**
 * Makes a tool that a language model calls to hand work over: `{ name, description, parameters, execute }`, and the
 * same in the shapes of other SDKs. It depends on none of them.
 *
 * @throws ValidationFailed for wrong options
 */
export function createTransferTool(options: TransferToolOptions): TransferTool {
  const { outbox, handoffs = outbox?.handoffs, context, ...rest } = given(options);
  const settings = parse(settingsSchema, rest, "options");
  if ((handoffs === undefined) === (context === undefined)) {
    throw new ValidationFailed("options: give one of outbox, handoffs and context");
  }
  const initiate = initiator(settings, handoffs, context);
  const name = settings.name ?? toolName(settings.to);
  const description =
    settings.description ??
    `Hand the work over to the agent "${settings.to}", with all that it needs. Once this was called, it is no longer yours unless it comes back.`;
  const execute = async (args: unknown, call: TransferCall = {}): Promise<TransferResult> => {
    try {
      const asked = parse(parameters, args ?? {}, "arguments");
      const offered = await initiate(asked, call.toolCallId);
      const now = await decided(offered, handoffs, settings.waitMs);
      return told(now, offered.duplicate, asked);
    } catch (error) {
      return failed(error);
    }
  };
  const jsonSchema = z.toJSONSchema(parameters, { io: "input" }) as Record<string, unknown>;
  const { $schema: _, ...schema } = jsonSchema;
  return {
    name,
    description,
    parameters: schema,
    execute,
    ...toolShapes({ name, description, schema, parameters, execute }),
  };
}

type Asked = z.output<typeof parameters>;
type Initiate = (
  asked: Asked,
  toolCallId: string | undefined,
) => Promise<Handoff & { readonly duplicate: boolean }>;

function initiator(
  { to, from, taskId, contextId, dueMs }: Settings,
  handoffs: TransferHandoffs | undefined,
  context: TransferContext | undefined,
): Initiate {
  if (context !== undefined && (from ?? taskId ?? contextId) !== undefined) {
    throw new ValidationFailed(
      "options: with context, from, taskId and contextId are the handler's",
    );
  }
  if (context === undefined && from === undefined) {
    throw new ValidationFailed("options.from: expected the agent that hands over");
  }
  return (asked, toolCallId) => {
    const incidentId = incidentOf(asked);
    const sheet: TaskHandoffInput = {
      to,
      reason: asked.reason ?? "expertise_required",
      currentState: { incident_id: incidentId, incident_data: asked.incident_data },
      ...(incidentId === null ? {} : { deliverables: { incident_id: incidentId } }),
      actionsRequired: asked.actions_required ?? [],
      priority: asked.priority,
      dueMs,
    };
    if (context !== undefined) return context.handOff(sheet);
    const input = { ...sheet, from: from as string, taskId, contextId };
    return (handoffs as TransferHandoffs).initiate({
      ...input,
      ...(toolCallId === undefined ? {} : { handoffId: callId([toolCallId, input]) }),
    });
  };
}

/** With what is asked: a model's host may begin to count its calls anew with every conversation. */
function callId(call: unknown): string {
  return `transfer_${createHash("sha256").update(JSON.stringify(call)).digest("hex").slice(0, 40)}`;
}

function incidentOf({ incident_data }: Asked): string | null {
  const named = incident_data.id ?? incident_data.incident_id;
  return typeof named === "string" || typeof named === "number" ? String(named) : null;
}

/** `analysis-agent` is asked for as `transfer_to_analysis`. */
function toolName(to: string): string {
  const short = to.replace(/[-_.:]agent(?:[-_.:]?\d+)?$/i, "").replace(/[^a-zA-Z0-9]+/g, "_");
  return `transfer_to_${short.replace(/^_+|_+$/g, "") || "agent"}`.slice(0, 64);
}

async function decided(
  offered: Handoff,
  handoffs: TransferHandoffs | undefined,
  waitMs: number,
): Promise<Handoff> {
  const until = performance.now() + waitMs;
  let now = offered;
  while (handoffs !== undefined && now.state === "offered" && performance.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    now = (await handoffs.get(offered.handoffId)) ?? now;
  }
  return now;
}

function told(handoff: Handoff, duplicate: boolean, asked: Asked): TransferResult {
  return {
    ok: true,
    status: handoff.state,
    message: wordsOf(handoff),
    handoff_id: handoff.handoffId,
    source_agent: handoff.from,
    target_agent: handoff.to,
    incident_id: incidentOf(asked),
    priority: asked.priority,
    timestamp: new Date(handoff.createdAt).toISOString(),
    due_at: new Date(handoff.dueAt).toISOString(),
    duplicate,
  };
}

function wordsOf({ to, state, note, dueAt }: Handoff): string {
  const why = note === null ? "" : `: ${note}`;
  switch (state) {
    case "offered":
      return `Offered to ${to}. It takes over once it accepts; if it does not by ${new Date(dueAt).toISOString()}, the work comes back.`;
    case "rejected":
      return `${to} declined${why}. The work is still yours: do it yourself, or hand it to another agent.`;
    case "returned":
    case "withdrawn":
      return `The work came back from ${to}${why}. It is yours again.`;
    case "completed":
      return `${to} took over and is done${why}.`;
    default:
      return `${to} has taken over${why}. Do nothing more about it.`;
  }
}

function failed(error: unknown): TransferResult {
  const { code, message } = errorRecord(error);
  const ours = error instanceof AgentCommunicationError;
  return {
    ok: false,
    status: "error",
    message: `Nothing was handed over: ${message}`,
    code: ours ? code : "TRANSFER_FAILED",
    retryable: ours ? error.retryable : false,
    recovery_suggestion: ours ? error.recoverySuggestion : "Go on with the work yourself.",
  };
}
