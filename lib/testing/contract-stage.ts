import { AssertionError } from "node:assert";
import type { SupervisorCoordinator } from "../coordination/supervisor.ts";
import type { FinishedTask, TaskFailure, TaskInput } from "../protocol/tasks.ts";
import type { AroundTask, TestAgentOptions } from "./agent-process.ts";
import { createTestOutbox, type TestOutbox } from "./harness.ts";
import type { TestAgent, TestOutboxOptions } from "./options.ts";

type Tasks = TestAgentOptions["tasks"];

/** A task to try an agent with. */
export interface ContractTask {
  readonly taskType: string;
  /** Default {}. */
  readonly parameters?: Record<string, unknown> | undefined;
}

/** An agent, and what is to be known of it to try it out. */
export interface AgentContract {
  /** For the tests' names, and as the agents' id: 1 to 100 of A-Z, a-z, 0-9, _ and -. */
  readonly name: string;
  /** As for runAgent. Default: none. */
  readonly capabilities?: TestAgentOptions["capabilities"];
  /** Its handlers; or what makes them, called for each agent that a path starts. */
  readonly tasks: Tasks | ((harness: TestOutbox, agentId: string) => Tasks | Promise<Tasks>);
  /** A task that it does well; `expect` throws when the result is not what it should be. */
  readonly success: ContractTask & { readonly expect?: ((result: unknown) => unknown) | undefined };
  /** A task that it has a handler for, and cannot do. Default: the path is skipped. */
  readonly error?:
    | (ContractTask & { readonly expect?: ((failure: TaskFailure) => unknown) | undefined })
    | undefined;
  /** Undoes `success`, whose result it gets as the parameter `result`. Default: the path is skipped. */
  readonly rollback?:
    | (ContractTask & { readonly expect?: ((result: unknown) => unknown) | undefined })
    | undefined;
}

/** How long a task of a contract may take by the virtual clock. */
export const WITHIN_MS = 600_000;

export function must(holds: boolean, message: string, actual?: unknown, expected?: unknown): void {
  if (holds) return;
  throw new AssertionError({ message, actual, expected, operator: "contract", stackStartFn: must });
}

/** The world of one path: a supervisor, and as many agents of the kind as the path needs. */
export class Stage {
  readonly harness: TestOutbox;
  readonly supervisor: SupervisorCoordinator;
  readonly agent: AgentContract;

  private constructor(
    harness: TestOutbox,
    supervisor: SupervisorCoordinator,
    agent: AgentContract,
  ) {
    this.harness = harness;
    this.supervisor = supervisor;
    this.agent = agent;
  }

  /** Runs `act` on a stage of its own. */
  static async with(
    agent: AgentContract,
    options: TestOutboxOptions | undefined,
    act: (stage: Stage) => Promise<void>,
  ): Promise<void> {
    const harness = await createTestOutbox(options);
    try {
      const supervisor = await harness.supervisor("contract-supervisor");
      await act(new Stage(harness, supervisor, agent));
    } finally {
      await harness.close();
    }
  }

  /** Starts one more agent of the kind. */
  async start(n = 1, around?: AroundTask): Promise<TestAgent> {
    const { name, capabilities, tasks } = this.agent;
    const agentId = `${name}-${n}`;
    return this.harness.agent(
      {
        agentId,
        ...(capabilities === undefined ? {} : { capabilities }),
        tasks: typeof tasks === "function" ? await tasks(this.harness, agentId) : tasks,
      },
      around,
    );
  }

  async assign(task: ContractTask, more: Partial<TaskInput> = {}): Promise<string> {
    const { taskId } = await this.supervisor.assignTask({
      taskType: task.taskType,
      description: `${this.agent.name}: ${task.taskType}`,
      parameters: { ...task.parameters },
      ...more,
    });
    return taskId;
  }

  ended(taskId: string): Promise<FinishedTask> {
    return this.harness.waitForTask(taskId, { withinMs: WITHIN_MS });
  }

  /** Whoever did the task of `success`: it is done, once, and as it should be. */
  async succeeded(taskId: string): Promise<FinishedTask> {
    const task = await this.ended(taskId);
    const why =
      task.lastError === null ? "" : `: ${task.lastError.code}: ${task.lastError.message}`;
    must(
      task.state === "completed",
      `the task "${task.taskType}" is ${task.state}, not completed${why}`,
      task.state,
      "completed",
    );
    await this.agent.success.expect?.(task.result);
    await this.harness.settle();
    await this.harness.expectNoLoss();
    const answers = await this.harness.sent({ messageType: "TASK_RESPONSE", taskId });
    must(answers.length === 1, `the task was answered ${answers.length} times`, answers.length, 1);
    return task;
  }

  /** The agent still works after whatever happened to it. */
  async goesOn(): Promise<void> {
    await this.succeeded(await this.assign(this.agent.success));
  }
}
