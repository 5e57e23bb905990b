import type { Needs, Requirement } from "../../protocol/capabilities.ts";
import { readings, type ValueKey } from "../../protocol/capability-values.ts";

interface Test {
  /** Which requirement: it is met when one of its tests passes. */
  readonly n: number;
  /** Null for what is required, else the weight. */
  readonly w: number | null;
  readonly c: string;
  readonly k: string;
  readonly o: string;
  readonly v: string;
}

/**
 * Requirements as rows that SQL can compare: one for each value and each kind that it may be read as. The kind of
 * the agent's own value decides which of them apply; where none does, the requirement is not met.
 */
export function testsOf({ required, preferred }: Needs): string {
  const tests = [
    ...required.map((it) => ({ it, w: null })),
    ...preferred.map(({ requirement, weight }) => ({ it: requirement, w: weight })),
  ].flatMap(({ it, w }, n): Test[] =>
    alternatives(it).map((test) => ({ n, w, c: it.capability, ...test })),
  );
  return JSON.stringify(tests);
}

function alternatives({ op, value }: Requirement): { k: string; o: string; v: string }[] {
  if (value === undefined) return [{ k: "", o: "has", v: "" }];
  const values = typeof value === "string" ? [value] : value;
  const o = op === "in" ? "=" : op;
  return values
    .flatMap(readings)
    .filter(({ kind }) => sensible(kind, o))
    .map(({ kind, key }) => ({ k: kind, o, v: key }));
}

/** Of true and false none is more than the other. */
function sensible(kind: ValueKey["kind"], op: string): boolean {
  return kind !== "boolean" || op === "=" || op === "!=";
}
