import { readFile } from "node:fs/promises";
import { z } from "zod";
import type { Gate, GateAnswer, GateSeverity, GateSubject } from "./gates.ts";

/** How serious it is when a shipped gate finds something. Default "critical". */
export interface GateOptions {
  readonly severity?: GateSeverity | undefined;
  /** Whether a blocked answer may be tried again. Default true. */
  readonly retryable?: boolean | undefined;
}

function gate(
  name: string,
  { severity = "critical", retryable }: GateOptions,
  remedy: string,
  find: (
    subject: GateSubject,
    context: Parameters<Gate["check"]>[1],
  ) => string | undefined | Promise<string | undefined>,
): Gate {
  return {
    name,
    check: async (subject, context): Promise<GateAnswer> => {
      const message = await find(subject, context);
      return message === undefined ? true : { ok: false, message, severity, remedy, retryable };
    },
  };
}

function at(value: unknown, path: string): unknown {
  return path
    .split(".")
    .reduce<unknown>(
      (inner, key) =>
        inner !== null && typeof inner === "object" && Object.hasOwn(inner, key)
          ? (inner as Record<string, unknown>)[key]
          : undefined,
      value,
    );
}

function isMissing(value: unknown): boolean {
  return (
    value === undefined ||
    value === null ||
    value === "" ||
    (Array.isArray(value) && value.length === 0)
  );
}

/**
 * Context is sufficient: these fields are there and not empty. Paths with dots into the sheet before a handoff
 * (`context.accomplished`, `deliverables.file_id`, `actionsRequired`), into the result before an answer.
 */
export function requiredContext(fields: readonly string[], options: GateOptions = {}): Gate {
  return gate(
    "required_context",
    options,
    `Fill in ${fields.join(", ")}.`,
    ({ handoff, output }) => {
      const missing = fields.filter((field) => isMissing(at(handoff ?? output, field)));
      return missing.length === 0 ? undefined : `missing: ${missing.join(", ")}`;
    },
  );
}

/** The output is valid: the result before an answer, the deliverables before a handoff. */
export function schemaGate(schema: z.ZodType, options: GateOptions = {}): Gate {
  return gate("schema", options, "Make the output match its schema.", async ({ output }) => {
    const parsed = await schema.safeParseAsync(output);
    if (parsed.success) return undefined;
    return parsed.error.issues
      .slice(0, 10)
      .map(({ path, message }) => `${path.map(String).join(".") || "output"}: ${message}`)
      .join("; ");
  });
}

const errorItem = z.looseObject({
  code: z.string().min(1),
  message: z.string().min(1),
  severity: z.enum(["critical", "warning", "info"]),
  recovery_suggestion: z.string().min(1),
});

/** Every entry of an `errors` list in the output or the current state says what, how bad, and what to do. */
export function errorsAreStructured(options: GateOptions = {}): Gate {
  return gate(
    "errors_are_structured",
    options,
    "Give each error a code, a message, a severity (critical, warning or info) and a recovery_suggestion.",
    ({ output, handoff }) => {
      const lists = [at(output, "errors"), at(handoff?.currentState, "errors")];
      const bad: string[] = [];
      for (const errors of lists) {
        if (errors === undefined) continue;
        if (!Array.isArray(errors)) return "errors is no list";
        errors.forEach((error, n) => {
          const parsed = errorItem.safeParse(error);
          if (parsed.success) return;
          const fields = parsed.error.issues.map(({ path }) => path.join(".") || "all of it");
          bad.push(`errors.${n}: ${[...new Set(fields)].join(", ")}`);
        });
      }
      return bad.length === 0 ? undefined : bad.slice(0, 10).join("; ");
    },
  );
}

/**
 * Logs are written: the message that brought the task is on record, in a mailbox, the archive or the dead letters.
 * What has no task passes.
 */
export function auditExists(options: GateOptions = {}): Gate {
  return gate(
    "audit_exists",
    options,
    "Let a supervisor assign the task, and keep the archive on.",
    async ({ task }, { tx, queue }) => {
      if (task === null) return undefined;
      const { messageId } = task;
      const known = messageId !== null && (await queue.getMessage(messageId, { tx })) !== null;
      return known ? undefined : `there is no record of how the task ${task.taskId} came here`;
    },
  );
}

export interface SlaOptions extends GateOptions {
  /** Above it, a warning; milliseconds. Default: the agent's card. */
  readonly targetMs?: number | undefined;
  /** Above it, the gate fails; milliseconds. Default: the agent's card. */
  readonly maxMs?: number | undefined;
}

/** The answer is in time. Without times, here and in the agent's card, everything is. */
export function withinSla(options: SlaOptions = {}): Gate {
  const { targetMs, maxMs, severity = "critical", retryable = false } = options;
  return {
    name: "within_sla",
    check: async ({ elapsedMs }, { agent }): Promise<GateAnswer> => {
      if (elapsedMs === undefined) return true;
      const card = targetMs !== undefined && maxMs !== undefined ? null : (await agent())?.card;
      const most = maxMs ?? card?.sla?.maxMs ?? Number.POSITIVE_INFINITY;
      const target = targetMs ?? card?.sla?.targetMs ?? most;
      if (elapsedMs <= target) return true;
      const late = elapsedMs > most;
      return {
        ok: false,
        severity: late ? severity : "warning",
        message: `took ${elapsedMs} ms, ${late ? `more than the ${most} ms that are allowed` : `more than the ${target} ms that are meant`}`,
        remedy: "Do less in one task, hand over in time, or give the agent another SLA.",
        retryable,
      };
    },
  };
}

/**
 * All stages are complete: the steps of this workflow, but for the one that asks; without a workflow, the subtasks
 * of the task.
 */
export function stagesComplete(
  workflow?: string | ((subject: GateSubject) => string | undefined),
  options: GateOptions = {},
): Gate {
  return gate(
    "stages_complete",
    options,
    "Wait for the stages that are named, or retry those that failed.",
    async (subject, { pendingSteps, pendingSubtasks }) => {
      const workflowId = typeof workflow === "function" ? workflow(subject) : workflow;
      const pending = await (workflowId === undefined
        ? pendingSubtasks()
        : pendingSteps(workflowId));
      if (pending === undefined) return `there is no workflow "${workflowId}"`;
      return pending.length === 0 ? undefined : `not complete: ${pending.slice(0, 20).join(", ")}`;
    },
  );
}

/**
 * Documentation is current: the card hash in the front matter of AGENT.md (`card_hash: …`) is that of the agent's
 * card, as `agent-outbox agents doc` writes it.
 */
export function agentDocCurrent(file: string | URL, options: GateOptions = {}): Gate {
  return gate(
    "agent_doc_current",
    options,
    `Bring ${String(file)} up to date with \`agent-outbox agents doc\`.`,
    async ({ agentId }, { agent }) => {
      const hash = (await agent())?.cardHash ?? null;
      if (hash === null) return `the agent "${agentId}" has no card`;
      const text = await readFile(file, "utf8").catch(() => undefined);
      if (text === undefined) return `${String(file)} cannot be read`;
      const written = /^card[-_]?hash:\s*["']?([0-9a-f]+)/im.exec(text)?.[1];
      if (written === undefined) return `${String(file)} names no card_hash`;
      return written === hash ? undefined : `${String(file)} describes an earlier card`;
    },
  );
}
