import { lookUp, pathOf, type Values } from "../../protocol/workflow-paths.ts";
import { references } from "../../protocol/workflow-plan.ts";
import type { StepWork } from "../../store/workflows/rows.ts";

/** Further parameters of a step, or the reference that leads to nothing. */
export type Resolved =
  | { readonly parameters: Record<string, unknown> }
  | { readonly missing: string };

/** What the step's references need: results of these steps, and perhaps the input. */
export function needed(work: StepWork): { stepIds: string[]; input: boolean } {
  const stepIds = new Set<string>();
  let input = false;
  for (const text of references(work)) {
    const path = pathOf(text);
    if (path === undefined) continue;
    if (path.stepId === null) input = true;
    else stepIds.add(path.stepId);
  }
  return { stepIds: [...stepIds], input };
}

/** The parameters of a step's task: the fixed ones, and over them those that come from elsewhere. */
export function resolved(
  work: Extract<StepWork, { readonly taskType: string }>,
  values: Values,
): Resolved {
  const parameters: Record<string, unknown> = { ...work.parameters };
  for (const [name, input] of Object.entries(work.inputs)) {
    const from = typeof input === "string" ? input : input.from;
    const found = lookUp(values, from);
    if (found === undefined && typeof input === "string") {
      return { missing: `"${name}": ${from} leads to nothing` };
    }
    const value = found === undefined && typeof input !== "string" ? input.default : found;
    // An own property also where the name is "__proto__".
    Object.defineProperty(parameters, name, {
      value,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return { parameters };
}
