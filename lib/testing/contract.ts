import { CONTRACT_PATHS, type ContractPath, PATHS } from "./contract-paths.ts";
import type { AgentContract } from "./contract-stage.ts";
import type { TestOutboxOptions } from "./options.ts";

/** How one path of an agent's contract went. */
export interface PathReport {
  readonly path: ContractPath;
  readonly status: "passed" | "failed" | "skipped";
  /** What the path shows, or why it was skipped. */
  readonly title: string;
  readonly error: Error | null;
}

export interface ContractReport {
  readonly agent: string;
  /** No path failed. */
  readonly passed: boolean;
  readonly paths: readonly PathReport[];
}

export interface ContractOptions {
  /** Only these paths. Default: all. */
  readonly paths?: readonly ContractPath[] | undefined;
  /** Options of createTestOutbox. Default: none. */
  readonly harness?: TestOutboxOptions | undefined;
}

/** `it` or `test` of any runner. */
export type TestFunction = (name: string, run: () => Promise<void>) => unknown;

/** Runs an agent through every path of its contract, each in a world of its own. Never throws what a path throws. */
export async function runAgentContract(
  agent: AgentContract,
  options: ContractOptions = {},
): Promise<ContractReport> {
  const paths: PathReport[] = [];
  for (const path of options.paths ?? CONTRACT_PATHS) {
    const { title, missing, run } = PATHS[path];
    const lacking = missing?.(agent);
    if (lacking !== undefined) {
      paths.push({ path, status: "skipped", title: lacking, error: null });
      continue;
    }
    try {
      await run(agent, options.harness);
      paths.push({ path, status: "passed", title, error: null });
    } catch (error) {
      const given = error instanceof Error ? error : new Error(String(error));
      paths.push({ path, status: "failed", title, error: given });
    }
  }
  return {
    agent: agent.name,
    passed: paths.every(({ status }) => status !== "failed"),
    paths,
  };
}

/** As `runAgentContract`, as one test per path; a path that the agent says nothing of is not registered. */
export function agentContractTests(
  agent: AgentContract,
  { test, ...options }: ContractOptions & { readonly test: TestFunction },
): void {
  for (const path of options.paths ?? CONTRACT_PATHS) {
    const { title, missing, run } = PATHS[path];
    if (missing?.(agent) !== undefined) continue;
    test(`${agent.name}: ${path}: ${title}`, () => run(agent, options.harness));
  }
}
