import type { Handoff } from "./handoffs.ts";
import { priorityName } from "./types.ts";

/** The words of the sheet: High, Medium or Low, whatever number stands behind it. */
function priorityWord(priority: number): string {
  const name = priorityName(priority);
  if (name === "CRITICAL") return "Critical";
  if (priority >= 30) return "High";
  return priority >= 20 ? "Medium" : "Low";
}

function shown(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** One line each: what somebody wrote must not become a heading or a field of the sheet. */
function plain(text: string): string {
  return text.replace(/\s*\r?\n\s*/g, " ").trim();
}

function list(entries: readonly string[]): string[] {
  return entries.length === 0 ? ["- none"] : entries.map((entry) => `- ${plain(entry)}`);
}

/** A handoff as the Markdown sheet that agents and people exchange. */
export function handoffMarkdown(handoff: Handoff): string {
  const { context, deliverables, currentState } = handoff;
  const state = currentState === null ? [] : [`Current state: ${shown(currentState)}`];
  return `${[
    "### 🔄 Agent Handoff",
    "",
    `**From**: ${handoff.from}`,
    `**To**: ${handoff.to}`,
    `**Timestamp**: ${new Date(handoff.createdAt).toISOString()}`,
    `**Handoff**: ${handoff.handoffId} (${handoff.state})`,
    ...(handoff.taskId === null ? [] : [`**Task**: ${handoff.taskId}`]),
    `**Reason**: ${plain(handoff.reason)}`,
    "",
    "**Context**:",
    ...list([
      ...context.accomplished,
      ...(context.dataState === null ? [] : [context.dataState]),
      ...state,
      ...context.warnings.map((warning) => `Warning: ${warning}`),
    ]),
    "",
    "**Deliverables**:",
    ...list(Object.entries(deliverables).map(([name, value]) => `${name}: ${shown(value)}`)),
    "",
    "**Action Required**:",
    ...list(handoff.actionsRequired),
    "",
    `**Priority**: ${priorityWord(handoff.priority)}`,
    "",
    `**Estimated Effort**: ${plain(handoff.estimatedEffort ?? "not estimated")}`,
  ].join("\n")}\n`;
}
