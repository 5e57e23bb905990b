import { onTestFinished } from "vitest";
import { Coordination } from "../../lib/coordination/coordination.ts";
import { SupervisorCoordinator } from "../../lib/coordination/supervisor.ts";
import type { Workflow, WorkflowInput, WorkflowStepInput } from "../../lib/index.ts";
import { Observers, type OutboxEvent } from "../../lib/protocol/events.ts";
import type { Db } from "../../lib/store/dialect.ts";

const DAY_MS = 86_400_000;

/** What an agent answers to a task; what it throws fails the task. */
export type Answers = Record<string, (parameters: Record<string, unknown>) => unknown>;

/** A supervisor of workflows, an agent that does tasks when it is told to, and what was told. */
export function stage(knex: Db, supervisorId = "workflows") {
  const events: OutboxEvent[] = [];
  const observers = new Observers();
  observers.add((news) => events.push(...news));
  const coordination = new Coordination(knex, { prefix: "outbox_", observers });
  const { workflows, registry } = coordination;
  const { queue } = coordination.parts;
  const boss = new SupervisorCoordinator(supervisorId, knex, { observers, coordination });
  onTestFinished(() => queue.close());
  const staged = {
    knex,
    events,
    coordination,
    workflows,
    queue,
    boss,

    /** Its promise to beat outlasts any test, on any machine. */
    agent: (agentId = "agent", capabilities: string[] = [], maxConcurrentTasks = 100) =>
      registry.registerAgent({ agentId, capabilities, maxConcurrentTasks, staleAfterMs: DAY_MS }),

    start: (steps: WorkflowStepInput[], more: Partial<WorkflowInput> = {}) =>
      workflows.start({ workflowType: "test", steps, ...more }),

    read: async (workflowId: string): Promise<Workflow> => {
      const workflow = await workflows.get(workflowId);
      if (workflow === null) throw new Error(`no workflow ${workflowId}`);
      return workflow;
    },

    /** The agent does the tasks that wait for it. Returns how many; without an answer for a type, `{ done: type }`. */
    async work(answers: Answers = {}, agentId = "agent", limit = 100): Promise<number> {
      const messages = await queue.getMessages(agentId, { limit });
      let done = 0;
      for (const message of messages) {
        if (message.messageType === "TASK_ASSIGNMENT") {
          done++;
          const { task_id, assignment, task_type, parameters } = message.content as {
            task_id: string;
            assignment: number;
            task_type: string;
            parameters: Record<string, unknown>;
          };
          const about = { task_id, assignment };
          try {
            const answer = answers[task_type] ?? (() => ({ done: task_type }));
            await message.reply({ ...about, status: "completed", result: answer(parameters) });
          } catch (error) {
            await message.reply({
              ...about,
              status: "failed",
              error_type: "broken",
              error_message: (error as Error).message,
            });
          }
        }
        await message.ack();
      }
      return done;
    },

    /** One round of the supervisor: its messages, then a sweep. */
    round: () => boss.processIncomingMessages(),

    /** Agent and supervisor take turns until nothing moves any more. */
    async settle(answers: Answers = {}, agentId = "agent"): Promise<void> {
      for (let idle = 0; idle < 2; ) {
        const worked = await staged.work(answers, agentId);
        const handled = await staged.round();
        idle = worked + handled === 0 ? idle + 1 : 0;
      }
    },

    /** All delays and deadlines of workflows come nearer by so much. */
    elapse: async (ms: number): Promise<void> => {
      for (const table of ["outbox_workflows", "outbox_workflow_steps"]) {
        await knex(table)
          .whereNotNull("due_at")
          .update({ due_at: knex.raw("due_at - ?", [ms]) });
      }
      await knex("outbox_workflows")
        .whereNotNull("deadline_at")
        .update({ deadline_at: knex.raw("deadline_at - ?", [ms]) });
    },

    told: (workflowId: string): string[] =>
      events.flatMap((event) =>
        event.type === "agent" && event.data.workflow_id === workflowId
          ? [`${event.event}${event.data.step_id === undefined ? "" : ` ${event.data.step_id}`}`]
          : [],
      ),
  };
  return staged;
}

export const task = (
  stepId: string,
  more: Partial<Extract<WorkflowStepInput, { taskType: string }>> = {},
): WorkflowStepInput => ({ stepId, taskType: stepId, ...more });

/** A step with one that undoes it. */
export const undoable = (stepId: string, more: object = {}): WorkflowStepInput =>
  task(stepId, { compensation: { taskType: `undo-${stepId}` }, ...more });

export const statesOf = ({ steps }: Workflow): Record<string, string> =>
  Object.fromEntries(steps.map(({ stepId, state }) => [stepId, state]));

/** A stage on empty tables, with one agent that can do everything. */
export async function emptied(knex: Db) {
  for (const table of [...TABLES, "workflows", "workflow_steps", "workflow_signals"]) {
    await knex(`outbox_${table}`).del();
  }
  const staged = stage(knex);
  await staged.agent();
  return staged;
}

const TABLES = ["agents", "messages", "mailboxes", "archive", "dead_letters", "tasks"];

export const boom = (): never => {
  throw new Error("boom");
};
