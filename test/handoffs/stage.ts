import { onTestFinished } from "vitest";
import { Coordination } from "../../lib/coordination/coordination.ts";
import type { GatesInput } from "../../lib/coordination/handoffs/gates.ts";
import { SupervisorCoordinator } from "../../lib/coordination/supervisor.ts";
import type { HandoffInput } from "../../lib/index.ts";
import { Observers, type OutboxEvent } from "../../lib/protocol/events.ts";
import type { TestDatabase } from "../support/databases.ts";

const DAY_MS = 86_400_000;

/** Two agents, a supervisor, and what was told. */
export function stage(database: TestDatabase, gates?: GatesInput) {
  const knex = database.knex();
  const events: OutboxEvent[] = [];
  const observers = new Observers();
  observers.add((news) => events.push(...news));
  const coordination = new Coordination(knex, { prefix: "outbox_", observers, gates });
  const { handoffs, registry } = coordination;
  const { queue } = coordination.parts;
  const boss = new SupervisorCoordinator("boss", knex, { observers, coordination });
  onTestFinished(() => queue.close());
  return {
    knex,
    events,
    coordination,
    handoffs,
    registry,
    queue,
    boss,

    /** Its promise to beat outlasts any test, on any machine: only `silence` makes it miss a beat. */
    agent: (agentId: string, capabilities: string[] = ["x"], maxConcurrentTasks = 1) =>
      registry.registerAgent({ agentId, capabilities, maxConcurrentTasks, staleAfterMs: DAY_MS }),

    /** A task that the agent "a" has, and its assignment as "a" claimed it. */
    async assigned(more: object = {}) {
      const task = await boss.assignTask({
        taskType: "work",
        requiredCapabilities: ["x"],
        ...more,
      });
      return { task, message: await this.next("a") };
    },

    offer: (more: Partial<HandoffInput> = {}) =>
      handoffs.initiate({ from: "a", to: "b", reason: "expertise_required", ...more }),

    /** The one message that waits for the agent, claimed. */
    async next(agentId: string, messageTypes?: string[]) {
      const [message] = await queue.getMessages(agentId, { limit: 1, messageTypes });
      if (message === undefined) throw new Error(`nothing waits for ${agentId}`);
      return message;
    },

    /** The types of the messages that wait for an agent. */
    waiting: async (agentId: string): Promise<string[]> =>
      knex("outbox_messages").where({ to_agent: agentId }).orderBy("seq").pluck("message_type"),

    task: async (taskId: string) => {
      const task = await boss.getTask(taskId);
      if (task === null) throw new Error(`no task ${taskId}`);
      return task;
    },

    /** One round of the supervisor: its messages, then a sweep. */
    sweep: () => boss.processIncomingMessages(),

    /** The time of an offer passes. */
    expire: (handoffId: string) =>
      knex("outbox_handoffs").where({ handoff_id: handoffId }).update({ due_at: 1 }),

    /** The agent has been silent for long. */
    silence: (agentId: string, ms = 2 * DAY_MS) =>
      knex("outbox_agents")
        .where({ agent_id: agentId })
        .update({ heartbeat_at: knex.raw("heartbeat_at - ?", [ms]) }),

    agentEvents: () => events.flatMap((event) => (event.type === "agent" ? [event.event] : [])),
  };
}

export async function wipe(database: TestDatabase): Promise<void> {
  const tables = ["handoffs", "tasks", "agent_capabilities", "agents", "messages", "archive"];
  for (const table of [...tables, "dead_letters", "dedupe", "mailboxes"]) {
    await database.knex()(`outbox_${table}`).del();
  }
}
