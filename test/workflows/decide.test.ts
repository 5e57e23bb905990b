import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  afterFailure,
  decide,
  failureOf,
  nextLook,
  pauseMs,
  type StepView,
  type WorkflowView,
} from "../../lib/coordination/workflows/decide.ts";
import { holds, lookUp, pathOf } from "../../lib/protocol/workflow-paths.ts";
import { isOver } from "../../lib/protocol/workflow-states.ts";
import { workflowSchema } from "../../lib/protocol/workflows.ts";

type Writable<T> = { -readonly [K in keyof T]: T[K] };
type Lane = { state: StepView["state"]; dueAt: number | null; failures: number };
type Step = Writable<Omit<StepView, "undo">> &
  Lane & { undo: Lane | null; maxAttempts: number; fate: boolean[]; undoFate: boolean[] };

/** A random graph: a step depends on some of those before it. Its fate says which of its attempts fail. */
const graph = fc
  .array(
    fc.record({
      before: fc.array(fc.nat(30), { maxLength: 4 }),
      severity: fc.constantFrom("critical", "critical", "warning", "info"),
      kind: fc.constantFrom("task", "task", "task", "signal"),
      undoable: fc.boolean(),
      maxAttempts: fc.integer({ min: 1, max: 3 }),
      fate: fc.array(fc.boolean(), { maxLength: 3 }),
      undoFate: fc.array(fc.boolean(), { maxLength: 3 }),
    }),
    { minLength: 1, maxLength: 12 },
  )
  .map((drafts) =>
    drafts.map(
      ({ before, ...draft }, n): Step => ({
        ...(draft as Pick<
          Step,
          "severity" | "kind" | "undoable" | "maxAttempts" | "fate" | "undoFate"
        >),
        stepId: `s${n}`,
        dependsOn: n === 0 ? [] : [...new Set(before.map((other) => `s${other % n}`))],
        state: "pending",
        dueAt: null,
        failures: 0,
        completion: null,
        warned: false,
        undo: null,
      }),
    ),
  );

const RETRY = { maxAttempts: 3, delayMs: 10, factor: 2 };

/** Runs a workflow by `decide` alone; `choice` says what ends next. Returns what happened, in order. */
function played(
  steps: Step[],
  onFailure: "compensate" | "stop",
  choice: () => number,
  cancelAt: number,
): { log: string[]; workflow: Writable<WorkflowView>; completed: string[] } {
  const workflow: Writable<WorkflowView> = {
    state: "running",
    deadlineAt: null,
    onFailure,
    failure: null,
  };
  const log: string[] = [];
  const completed: string[] = [];
  const byId = new Map(steps.map((step) => [step.stepId, step]));
  let now = 0;
  const act = () => {
    for (;;) {
      const actions = decide(workflow, steps, now);
      if (actions.length === 0) return;
      for (const action of actions) {
        if (action.type === "overdue") throw new Error("there is no deadline");
        if (action.type === "become") {
          workflow.state = action.state;
          log.push(`= ${action.state}`);
          continue;
        }
        const step = byId.get(action.stepId) as Step;
        log.push(`${action.type} ${step.stepId}`);
        if (action.type === "start") {
          expect(["pending", "waiting"]).toContain(step.state);
          for (const before of step.dependsOn) {
            const { state, severity } = byId.get(before) as Step;
            expect(state === "completed" || (state === "failed" && severity !== "critical")).toBe(
              true,
            );
          }
          step.state = "running";
          step.dueAt = null;
        } else if (action.type === "stop") step.state = "stopping";
        else if (action.type === "drop") step.state = "canceled";
        else {
          expect(steps.every(({ undo }) => undo?.state !== "running")).toBe(true);
          step.undo ??= { state: "pending", dueAt: null, failures: 0 };
          step.undo.state = "running";
        }
      }
    }
  };
  const end = (step: Step, lane: Lane, fate: boolean[]) => {
    const fails = fate.shift() ?? false;
    if (!fails) {
      lane.state = "completed";
      if (lane === step.undo) log.push(`undone ${step.stepId}`);
      else {
        completed.push(step.stepId);
        step.completion = completed.length;
      }
      return;
    }
    lane.failures++;
    const retry = { ...RETRY, maxAttempts: step.maxAttempts };
    const stopping = lane.state === "stopping";
    const next = afterFailure(retry, { failures: lane.failures, final: false, stopping });
    if (typeof next === "object") {
      lane.state = "waiting";
      lane.dueAt = now + next.pauseMs;
      return;
    }
    lane.state = next;
    if (next === "failed" && lane === step && step.severity === "critical") {
      workflow.failure ??= failureOf(workflow, { code: "x", message: "" });
    }
  };
  for (let turn = 0; turn < 500; turn++) {
    act();
    if (isOver(workflow.state)) return { log, workflow, completed };
    if (turn === cancelAt && workflow.state === "running" && workflow.failure === null) {
      workflow.failure = { compensate: onFailure === "compensate", canceled: true };
      continue;
    }
    const open = steps.flatMap((step) => [
      ...(step.state === "running" || step.state === "stopping"
        ? [() => end(step, step, step.fate)]
        : []),
      ...(step.undo?.state === "running"
        ? [() => end(step, step.undo as Lane, step.undoFate)]
        : []),
    ]);
    const due = nextLook(workflow, steps, now);
    if (open.length === 0) {
      // Nothing is under way: a look must be due, or it would stand still for ever.
      expect(due).not.toBeNull();
      now = Math.max(now, due as number);
    } else open[choice() % open.length]?.();
  }
  throw new Error("it never ended");
}

describe("what follows in a workflow", () => {
  it("always ends, never runs a step before its dependencies or twice at once, and undoes in reverse", () => {
    fc.assert(
      fc.property(
        graph,
        fc.constantFrom("compensate", "stop"),
        fc.infiniteStream(fc.nat(1_000)),
        fc.integer({ min: 0, max: 60 }),
        (steps, onFailure, choices, cancelAt) => {
          const { log, workflow, completed } = played(
            steps,
            onFailure as "stop",
            () => choices.next().value as number,
            cancelAt,
          );
          const critical = steps.some((s) => s.state === "failed" && s.severity === "critical");
          expect(steps.filter(({ state }) => state === "running" || state === "pending")).toEqual(
            [],
          );
          if (workflow.state.startsWith("completed")) {
            expect(critical).toBe(false);
            expect(completed.length + steps.filter((s) => s.state === "failed").length).toBe(
              steps.length,
            );
          }
          const undone = log.flatMap((line) => (line.startsWith("undone ") ? [line.slice(7)] : []));
          const undoable = completed.filter((id) =>
            steps.some((step) => step.stepId === id && step.undoable),
          );
          if (workflow.state === "compensated") expect(undone).toEqual(undoable.reverse());
          else if (workflow.state === "compensation_failed") {
            expect(undone).toEqual(undoable.reverse().slice(0, undone.length));
          } else expect(undone).toEqual([]);
          if (workflow.state === "failed" && onFailure === "compensate")
            expect(undoable).toEqual([]);
          // Nothing begins once it is certain that it fails.
          const last = log.findIndex((line) => /^(stop|drop) /.test(line));
          if (last >= 0) {
            expect(log.slice(last).some((line) => line.startsWith("start "))).toBe(false);
          }
        },
      ),
      { numRuns: 2_000 },
    );
  });

  it("decides nothing while paused or over", () => {
    const step = {
      stepId: "a",
      kind: "task" as const,
      state: "pending" as const,
      dueAt: null,
      dependsOn: [],
      severity: "critical" as const,
      undoable: true,
      completion: null,
      warned: false,
      undo: null,
    };
    for (const state of ["paused", "failed", "completed", "canceled", "compensated"] as const) {
      const workflow = { state, deadlineAt: 1, onFailure: "stop" as const, failure: null };
      expect(decide(workflow, [step], 10)).toEqual([]);
      expect(nextLook(workflow, [step], 10)).toBeNull();
    }
  });

  it("pauses longer each time, up to a day", () => {
    expect([1, 2, 3].map((n) => pauseMs({ maxAttempts: 9, delayMs: 100, factor: 3 }, n))).toEqual([
      100, 300, 900,
    ]);
    expect(pauseMs({ maxAttempts: 100, delayMs: 1_000, factor: 10 }, 99)).toBe(86_400_000);
  });
});

describe("references", () => {
  it("are read as they are written, and nothing else is", () => {
    expect(pathOf("$.input")).toEqual({ stepId: null, keys: [] });
    expect(pathOf('$.steps.a-b_1.result.rows[0]["a \\"key\\""].x')).toEqual({
      stepId: "a-b_1",
      keys: ["rows", 0, 'a "key"', "x"],
    });
    for (const text of [
      "",
      "input",
      "$",
      "$.inputs.a",
      "$.steps.a",
      "$.steps.a.error",
      "$.input.",
      "$.input[-1]",
      "$.input[*]",
      "$.input..a",
      "$.input.a b",
      `$.input.${"x".repeat(600)}`,
    ]) {
      expect(pathOf(text), text).toBeUndefined();
    }
  });

  it("find only what a value has of its own", () => {
    const values = {
      input: { list: [1, { deep: null }], text: "abc" },
      results: new Map<string, unknown>([["a", { n: 0 }]]),
    };
    expect(lookUp(values, "$.input.list[1].deep")).toBeNull();
    expect(lookUp(values, "$.steps.a.result.n")).toBe(0);
    for (const text of [
      "$.input.constructor",
      "$.input.__proto__",
      "$.input.list.length",
      "$.input.list[7]",
      "$.input.text[0]",
      "$.input.text.length",
      '$.input.list["0"]',
      "$.steps.b.result",
      "$.steps.a.result.n.toString",
    ]) {
      expect(lookUp(values, text), text).toBeUndefined();
    }
  });

  it("are what conditions look at", () => {
    const values = { input: { n: 5, s: "b", no: null }, results: new Map() };
    const is = (path: string, op: string, value?: unknown) =>
      holds({ path: `$.input.${path}`, op, value } as Parameters<typeof holds>[0], values);
    expect(is("n", "=", 5) && is("n", ">=", 5) && is("n", "in", [1, 5]) && is("s", "<", "c")).toBe(
      true,
    );
    expect(is("no", "exists") && is("gone", "missing") && is("gone", "!=", 1)).toBe(true);
    expect(is("n", "=", "5") || is("n", ">", "1") || is("gone", "<", 1) || is("no", "<", 1)).toBe(
      false,
    );
  });
});

describe("a definition", () => {
  const told = (workflow: object): string => {
    const result = workflowSchema.safeParse({ workflowType: "t", ...workflow });
    return result.success ? "" : (result.error.issues[0]?.message ?? "?");
  };
  const step = (stepId: string, more: object = {}) => ({ stepId, taskType: "x", ...more });

  it("is refused with what is wrong", () => {
    expect(told({ steps: [] })).toBe("expected at least one step");
    expect(told({ steps: [step("a"), step("a")] })).toBe('"a" is there twice');
    expect(told({ steps: [step("a", { dependsOn: ["b"] })] })).toContain('only in the mode "dag"');
    expect(told({ mode: "dag", steps: [step("a", { dependsOn: ["b"] })] })).toBe(
      'there is no step "b"',
    );
    expect(
      told({
        mode: "dag",
        steps: [step("a", { dependsOn: ["b"] }), step("b", { dependsOn: ["a"] }), step("c")],
      }),
    ).toBe("depend on each other: a → b");
    expect(told({ steps: Array.from({ length: 1_001 }, (_, n) => step(`s${n}`)) })).toContain(
      "1000",
    );
    expect(told({ steps: [step("a", { unknown: 1 })] })).toContain("unknown");
    expect(told({ steps: [step("a b")] })).toContain("expected 1 to 64");
    expect(told({ steps: [step("a", { when: { path: "$.input", op: "=" } })] })).toContain("value");
  });

  it("may only refer to what surely ends before", () => {
    const uses = (from: string) => ({ inputs: { x: `$.steps.${from}.result` } });
    const before = "is not the result of a step that surely ends before";
    expect(told({ steps: [step("a"), step("b", uses("a"))] })).toBe("");
    expect(told({ steps: [step("a", uses("b")), step("b")] })).toContain(before);
    expect(told({ steps: [step("a", uses("a"))] })).toContain(before);
    expect(told({ mode: "parallel", steps: [step("a"), step("b", uses("a"))] })).toContain(before);
    const dag = (from: string) => ({
      mode: "dag",
      steps: [
        step("a"),
        step("b", { dependsOn: ["a"] }),
        step("side"),
        step("c", { dependsOn: ["b"], ...uses(from) }),
      ],
    });
    expect(told(dag("a"))).toBe("");
    expect(told(dag("side"))).toContain(before);
    const undo = (from: string) => ({
      steps: [step("a", { compensation: { taskType: "u", ...uses(from) } }), step("b")],
    });
    expect(told(undo("a"))).toBe("");
    expect(told(undo("b"))).toContain(before);
  });

  it("of a thousand steps is checked at once", () => {
    const steps = Array.from({ length: 1_000 }, (_, n) =>
      step(`s${n}`, n === 0 ? {} : { inputs: { x: "$.steps.s0.result" } }),
    );
    const since = performance.now();
    expect(told({ steps })).toBe("");
    expect(performance.now() - since).toBeLessThan(5_000);
  });
});
