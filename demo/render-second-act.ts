import type { Report } from "./report.ts";
import { printable } from "./words.ts";

/** How the second act went: what was done, handed over, and taken back. */
export function secondActLines({ secondAct: { workflow, handoff, change } }: Report): string[] {
  const done = workflow.steps.map(({ step, agent, state, undone }) => {
    const end = state === "completed" && undone ? "done, and undone" : state;
    return `${step.padEnd(8)}  ${(agent ?? "nobody").padEnd(6)}  ${end}`;
  });
  const over =
    handoff === null
      ? []
      : [
          `${handoff.from} handed its step over to ${handoff.to} (${handoff.reason}): ${handoff.state}.`,
        ];
  const left =
    workflow.left.length === 0 ? "no file is left of it" : `left: ${workflow.left.join(", ")}`;
  return [
    `A workflow of ${workflow.steps.length} steps was to publish the findings; it is ${workflow.state}, and ${left}.`,
    ...done,
    ...(workflow.failure === null ? [] : [`It failed on purpose: ${printable(workflow.failure)}`]),
    ...over,
    `So gus asked for a change (${change.requestId}): ${change.path.join(", ")}.`,
  ];
}
