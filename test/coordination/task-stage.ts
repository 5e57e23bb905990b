import { onTestFinished } from "vitest";
import {
  type AgentRunner,
  type AgentRunnerOptions,
  runAgent,
} from "../../lib/coordination/agent-runner.ts";
import { Coordination } from "../../lib/coordination/coordination.ts";
import { SupervisorCoordinator } from "../../lib/coordination/supervisor.ts";
import { Observers, type OutboxEvent, type TaskEvent } from "../../lib/protocol/events.ts";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import type { TestDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { stage } from "./stage.ts";

/** A stage with what an outbox puts together: tasks, and agents that share it. */
export function taskStage(database: TestDatabase) {
  const on = stage(database);
  const events: OutboxEvent[] = [];
  const observers = new Observers();
  observers.add((news) => events.push(...news));
  const coordination = new Coordination(on.knex, { prefix: "outbox_", observers });
  const boss = new SupervisorCoordinator("boss", on.knex, { coordination });
  return {
    ...on,
    events,
    coordination,
    boss,
    tasks: coordination.tasks,
    needsX: (more: Partial<TaskInput> = {}): TaskInput => ({
      taskType: "work",
      requiredCapabilities: ["x"],
      ...more,
    }),

    async run(
      options: Partial<AgentRunnerOptions> & Pick<AgentRunnerOptions, "tasks">,
    ): Promise<AgentRunner> {
      const given = { agentId: "a", capabilities: ["x"], coordination, observers, ...options };
      const runner = await runAgent(on.knex, given);
      onTestFinished(() => runner.stop({ deadlineMs: 500 }));
      return runner;
    },

    /** The supervisor works in the background until the test ends. */
    supervise(): void {
      boss.start({ intervalMs: 20 });
      onTestFinished(() => boss.stop());
    },

    /** Until the task is in this state. */
    async becomes(taskId: string, state: string) {
      await until(async () => (await coordination.tasks.get(taskId))?.state === state);
      return coordination.tasks.get(taskId);
    },

    taskEvents: () => events.filter((event): event is TaskEvent => event.type === "task"),
    eventNames: () => events.flatMap((event) => (event.type === "task" ? [event.event] : [])),
  };
}
