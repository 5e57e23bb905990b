import type { z } from "zod";
import { pathOf } from "./workflow-paths.ts";

/** As much of a workflow as its order depends on. */
interface Ordered {
  readonly mode: "sequential" | "parallel" | "dag";
  readonly steps: readonly {
    readonly stepId: string;
    dependsOn: string[];
    readonly when?: { readonly path: string } | undefined;
    readonly inputs?: Inputs;
    readonly compensation?: { readonly inputs: Inputs } | undefined;
  }[];
}
type Inputs = Readonly<Record<string, string | { readonly from: string }>>;
type Context = z.core.$RefinementCtx;

function refuse(context: Context, path: PropertyKey[], message: string): false {
  context.addIssue({ code: "custom", path: ["steps", ...path], message });
  return false;
}

/**
 * Turns every mode into dependencies, which are all that the engine knows. False, and said, where an id is used
 * twice, a dependency is unknown, or there is a cycle.
 */
export function orderedSteps({ mode, steps }: Ordered, context: Context): boolean {
  const ids = new Map<string, number>();
  for (const [n, { stepId, dependsOn }] of steps.entries()) {
    if (ids.has(stepId)) return refuse(context, [n, "stepId"], `"${stepId}" is there twice`);
    ids.set(stepId, n);
    if (mode !== "dag" && dependsOn.length > 0) {
      return refuse(context, [n, "dependsOn"], `only in the mode "dag", and this is "${mode}"`);
    }
  }
  for (const [n, step] of steps.entries()) {
    if (mode === "sequential" && n > 0) step.dependsOn = [steps[n - 1]?.stepId ?? ""];
    step.dependsOn = [...new Set(step.dependsOn)];
    const unknown = step.dependsOn.find((other) => !ids.has(other));
    if (unknown !== undefined) {
      return refuse(context, [n, "dependsOn"], `there is no step "${unknown}"`);
    }
  }
  const loop = cycle(steps);
  return loop === undefined || refuse(context, [], `depend on each other: ${loop.join(" → ")}`);
}

/** Steps of a cycle, if there is one: what is left when all that can run has run. */
function cycle(steps: Ordered["steps"]): string[] | undefined {
  const open = new Map(steps.map(({ stepId, dependsOn }) => [stepId, new Set(dependsOn)]));
  const then = dependents(steps);
  const free = [...open].filter(([, before]) => before.size === 0).map(([stepId]) => stepId);
  for (let stepId = free.pop(); stepId !== undefined; stepId = free.pop()) {
    open.delete(stepId);
    for (const next of then.get(stepId) ?? []) {
      const before = open.get(next);
      if (before?.delete(stepId) === true && before.size === 0) free.push(next);
    }
  }
  const [first] = open.keys();
  if (first === undefined) return undefined;
  const seen: string[] = [];
  for (let at = first; !seen.includes(at); ) {
    seen.push(at);
    at = [...(open.get(at) ?? [])].find((other) => open.has(other)) ?? at;
  }
  return seen.slice(0, 10);
}

/** Who comes directly after each step. */
export function dependents(
  steps: readonly { readonly stepId: string; readonly dependsOn: readonly string[] }[],
): Map<string, string[]> {
  const then = new Map<string, string[]>();
  for (const { stepId, dependsOn } of steps) {
    for (const before of dependsOn) {
      const list = then.get(before);
      if (list === undefined) then.set(before, [stepId]);
      else list.push(stepId);
    }
  }
  return then;
}

/** Refuses references to steps that need not have ended before. */
export function checkReferences({ steps }: Ordered, context: Context): void {
  const byId = new Map(steps.map((step) => [step.stepId, step]));
  for (const [n, step] of steps.entries()) {
    const own = references(step);
    const undo = inputPaths(step.compensation?.inputs);
    if (own.length + undo.length === 0) continue;
    const before = ancestors(step.stepId, byId);
    const wrong = (list: readonly string[], known: ReadonlySet<string>) =>
      list.find((text) => {
        const from = pathOf(text)?.stepId;
        return from !== undefined && from !== null && !known.has(from);
      });
    const said = wrong(own, before) ?? wrong(undo, new Set([...before, step.stepId]));
    if (said === undefined) continue;
    refuse(context, [n], `"${said}" is not the result of a step that surely ends before`);
    return;
  }
}

/** The paths that a step's own inputs and condition name. */
export function references(step: {
  readonly when?: { readonly path: string } | undefined;
  readonly inputs?: Inputs;
}): string[] {
  return [...(step.when === undefined ? [] : [step.when.path]), ...inputPaths(step.inputs)];
}

function inputPaths(inputs: Inputs = {}): string[] {
  return Object.values(inputs).map((input) => (typeof input === "string" ? input : input.from));
}

function ancestors(
  stepId: string,
  byId: ReadonlyMap<string, { readonly dependsOn: readonly string[] }>,
): Set<string> {
  const found = new Set<string>();
  const open = [...(byId.get(stepId)?.dependsOn ?? [])];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (found.has(next)) continue;
    found.add(next);
    open.push(...(byId.get(next)?.dependsOn ?? []));
  }
  return found;
}
