import type { StepProgress, Workflow, WorkflowStep, WorkflowSummary } from "../index.ts";
import { NotFound } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { clean, duration, prettyJson, relative } from "./text.ts";

const GOOD = ["completed", "compensated"];
const BAD = ["failed", "compensation_failed", "canceled"];

export const stateStyle = ({ state }: { readonly state: string }) =>
  GOOD.includes(state)
    ? ("green" as const)
    : BAD.includes(state)
      ? ("red" as const)
      : state === "running" || state === "pending" || state === "skipped"
        ? undefined
        : ("yellow" as const);

export const unknown = (id: string) =>
  new NotFound(`there is no workflow ${id}`, "Try `agent-outbox workflows ls`.");

const took = ({ startedAt, finishedAt }: StepProgress, now: number): string =>
  startedAt === null ? "" : duration((finishedAt ?? now) - startedAt);

const taskOf = ({ taskType, signal }: WorkflowStep): string => taskType ?? `signal ${signal}`;

const undone = ({ compensation }: WorkflowStep): string =>
  compensation === null ? "" : compensation.state === "completed" ? "undone" : compensation.state;

export function heading(terminal: Terminal, workflow: WorkflowSummary): void {
  const { failure } = workflow;
  const now = Date.now();
  terminal.fields([
    ["workflow", workflow.workflowId],
    ["type", workflow.workflowType],
    ["mode", workflow.mode],
    ["state", workflow.state, stateStyle(workflow)],
    ["because", failure === null ? null : `${failure.code}: ${failure.message}`, "red"],
    ["failed step", failure?.stepId ?? null],
    ["supervisor", workflow.supervisorId],
    ["context", workflow.contextId],
    ["started", relative(workflow.createdAt, now)],
    ["deadline", workflow.deadlineAt === null ? null : relative(workflow.deadlineAt, now)],
    ["ended", workflow.finishedAt === null ? null : relative(workflow.finishedAt, now)],
  ]);
}

export function table(terminal: Terminal, { steps }: Workflow): void {
  const now = Date.now();
  terminal.line();
  terminal.table(steps, [
    { title: "STEP", value: ({ stepId }) => stepId, flexible: true },
    { title: "TASK", value: taskOf, flexible: true },
    { title: "STATE", value: ({ state }) => state, style: stateStyle },
    { title: "TRIES", value: ({ attempt }) => String(attempt), align: "right" },
    { title: "TOOK", value: (step) => took(step, now), align: "right" },
    { title: "UNDONE", value: undone },
    { title: "ERROR", value: ({ error }) => error?.message ?? "", flexible: true },
  ]);
}

/** Each step below the first of those that it depends on; the others are named behind it. */
export function tree(terminal: Terminal, { steps }: Workflow): void {
  const below = new Map<string | undefined, WorkflowStep[]>();
  for (const step of steps) {
    const [parent] = step.dependsOn;
    const list = below.get(parent);
    if (list === undefined) below.set(parent, [step]);
    else list.push(step);
  }
  const draw = (step: WorkflowStep, first: string, rest: string): void => {
    const style = stateStyle(step);
    const also = step.dependsOn.slice(1).map(clean);
    const more = [
      also.length === 0 ? "" : `after ${also.join(", ")} too`,
      undone(step),
      step.state === "waiting" && step.dueAt !== null ? relative(step.dueAt, Date.now()) : "",
    ];
    terminal.line(
      [
        `${first}${step.stepId}`,
        style === undefined ? step.state : terminal.style(style, step.state),
        ...more.filter((text) => text !== "").map((text) => terminal.style("dim", text)),
      ].join("  "),
    );
    const inner = below.get(step.stepId) ?? [];
    for (const [n, next] of inner.entries()) {
      const last = n === inner.length - 1;
      draw(next, `${rest}${last ? "└─ " : "├─ "}`, `${rest}${last ? "   " : "│  "}`);
    }
  };
  terminal.line();
  for (const step of below.get(undefined) ?? []) draw(step, "", "");
}

export function outcome(terminal: Terminal, { errors, warnings, result }: Workflow): void {
  for (const error of errors) {
    terminal.line(terminal.style("red", `error    ${clean(`${error.stepId}: ${error.message}`)}`));
  }
  for (const warning of warnings) {
    const text = clean(`${warning.stepId}: ${warning.message}`);
    terminal.line(terminal.style("yellow", `warning  ${text}`));
  }
  if (Object.keys(result).length === 0) return;
  terminal.line(terminal.style("dim", "result"));
  terminal.line(prettyJson(result, "  "));
}

/** How far it is, in one line. */
export function progressLine({ workflowId, state, steps }: Workflow): string {
  const over = steps.filter(({ finishedAt }) => finishedAt !== null).length;
  const under = steps.filter(({ state }) => state === "running").map(({ stepId }) => stepId);
  const what = under.length === 0 ? "" : `; under way: ${under.slice(0, 5).join(", ")}`;
  return `workflow ${workflowId}: ${state}, ${over} of ${steps.length} steps${what}`;
}
