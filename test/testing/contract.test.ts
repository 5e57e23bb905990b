import { describe, expect, it } from "vitest";
import {
  type AgentContract,
  agentContractTests,
  type ContractPath,
  runAgentContract,
} from "../../lib/testing/index.ts";

/** Puts amounts into an account, and takes them out again. */
function bookkeeper(): AgentContract & { readonly account: Map<string, number> } {
  const account = new Map<string, number>();
  const amountOf = ({ amount }: Readonly<Record<string, unknown>>) => {
    if (typeof amount !== "number") throw new Error("the amount is no number");
    return amount;
  };
  return {
    account,
    name: "bookkeeper",
    capabilities: ["bookkeeping"],
    tasks: {
      book: ({ taskId, parameters }) => {
        // The same task twice books once.
        account.set(taskId, amountOf(parameters));
        return { booked: amountOf(parameters), taskId };
      },
      unbook: ({ parameters }) => {
        const { taskId } = parameters.result as { taskId: string };
        return { removed: account.delete(taskId) };
      },
    },
    success: {
      taskType: "book",
      parameters: { amount: 7 },
      expect: (result) => expect(result).toMatchObject({ booked: 7 }),
    },
    error: {
      taskType: "book",
      parameters: { amount: "seven" },
      expect: (failure) => expect(failure.message).toContain("no number"),
    },
    rollback: {
      taskType: "unbook",
      expect: (result) => expect(result).toEqual({ removed: true }),
    },
  };
}

describe("a good agent", () => {
  agentContractTests(bookkeeper(), { test: it });

  it("needs no capability", async () => {
    const { capabilities: _, ...plain } = bookkeeper();
    const report = await runAgentContract({ ...plain, name: "zoe" });
    expect(report.paths.filter(({ status }) => status !== "passed")).toEqual([]);
  });

  it("need not return anything", async () => {
    const quiet: AgentContract = {
      name: "quiet",
      tasks: { do: () => undefined, undo: () => undefined },
      success: { taskType: "do", expect: (result) => expect(result).toBeNull() },
      rollback: { taskType: "undo" },
    };
    const { paths } = await runAgentContract(quiet, { paths: ["success", "rollback"] });
    expect(paths.map(({ error }) => error)).toEqual([null, null]);
  });

  it("passes every path, and the report says so", async () => {
    const report = await runAgentContract(bookkeeper());
    expect(report.paths.map(({ path, status, error }) => [path, status, error])).toEqual(
      ["success", "error", "timeout", "handoff", "rollback", "permission", "outage", "crash"].map(
        (path) => [path, "passed", null],
      ),
    );
    expect(report).toMatchObject({ agent: "bookkeeper", passed: true });
  });
});

describe("what an agent says nothing of", () => {
  const { error: _error, rollback: _rollback, ...terse } = bookkeeper();

  it("is reported as skipped, with the reason", async () => {
    const report = await runAgentContract(terse, { paths: ["error", "rollback", "success"] });
    expect(report.passed).toBe(true);
    expect(report.paths.map(({ status, title }) => [status, title])).toEqual([
      ["skipped", "no task is given that it cannot do"],
      ["skipped", "no task is given that undoes another"],
      ["passed", "does its task, and answers once"],
    ]);
  });

  it("is not registered as a test", () => {
    const names: string[] = [];
    agentContractTests(terse, { test: (name) => names.push(name) });
    expect(names.map((name) => name.split(": ")[1])).toEqual([
      "success",
      "timeout",
      "handoff",
      "permission",
      "outage",
      "crash",
    ]);
  });
});

describe("a path fails when it should", () => {
  const broken: readonly (readonly [
    string,
    ContractPath,
    string,
    (agent: AgentContract) => AgentContract,
  ])[] = [
    [
      "a wrong result",
      "success",
      "booked",
      (agent) => ({ ...agent, tasks: { book: () => ({ booked: 8 }) } }),
    ],
    [
      "an error where it should succeed",
      "success",
      "is failed, not completed: task_execution_failure: broken",
      (agent) => ({
        ...agent,
        tasks: {
          book: () => {
            throw Object.assign(new Error("broken"), { retryable: false });
          },
        },
      }),
    ],
    [
      "no handler at all",
      "success",
      "is rejected, not completed",
      (agent) => ({ ...agent, tasks: {} }),
    ],
    [
      "a result where it should fail",
      "error",
      "which cannot be done, is completed",
      (agent) => ({ ...agent, tasks: { book: () => ({ booked: 7 }) } }),
    ],
    [
      "a handler that dies of its second task",
      "timeout",
      "is failed, not completed",
      (agent) => {
        let runs = 0;
        return {
          ...agent,
          tasks: {
            book: () => {
              if (runs++ > 0) throw Object.assign(new Error("once only"), { retryable: false });
              return { booked: 7 };
            },
          },
        };
      },
    ],
    [
      "another of its kind that cannot",
      "handoff",
      "is failed, not completed",
      (agent) => ({
        ...agent,
        tasks: (_harness, agentId) => ({
          book: () => {
            if (agentId.endsWith("-2")) {
              throw Object.assign(new Error("not me"), { retryable: false });
            }
            return { booked: 7 };
          },
        }),
      }),
    ],
    [
      "a compensation that finds nothing to undo",
      "rollback",
      "what was done is not undone",
      (agent) => ({
        ...agent,
        tasks: {
          book: () => ({ booked: 7 }),
          unbook: () => {
            throw Object.assign(new Error("nothing to undo"), { retryable: false });
          },
        },
      }),
    ],
    [
      "an agent that does whatever it is told",
      "permission",
      "is completed",
      (agent) => ({
        ...agent,
        tasks: { book: () => ({ booked: 7 }), "contract-forbidden": () => "root" },
      }),
    ],
    [
      "a handler that only works the first time",
      "outage",
      "is failed, not completed",
      (agent) => {
        let runs = 0;
        return {
          ...agent,
          tasks: {
            book: () => {
              if (runs++ > 0) throw Object.assign(new Error("again?"), { retryable: false });
              return { booked: 7 };
            },
          },
        };
      },
    ],
  ];
  it.each(broken)("%s: %s", async (_title, path, message, breakIt) => {
    const report = await runAgentContract(breakIt(bookkeeper()), { paths: [path] });
    expect(report.passed).toBe(false);
    expect(report.paths).toMatchObject([{ path, status: "failed" }]);
    expect(report.paths[0]?.error?.message).toContain(message);
  });
});
