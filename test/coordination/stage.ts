import { AgentRegistry } from "../../lib/agent-registry.ts";
import type { SupervisorOptions } from "../../lib/coordination/options.ts";
import { SupervisorCoordinator } from "../../lib/coordination/supervisor.ts";
import { Observers, type OutboxEvent } from "../../lib/protocol/events.ts";
import { MessageQueueManager } from "../../lib/queue/manager.ts";
import type { TestDatabase } from "../support/databases.ts";

const DAY_MS = 86_400_000;

/** A supervisor, a registry and a queue on one database, and what they told. */
export function stage(database: TestDatabase) {
  const knex = database.knex();
  const events: OutboxEvent[] = [];
  const observers = new Observers();
  observers.add((news) => events.push(...news));
  const registry = new AgentRegistry(knex, { observers });
  const queue = new MessageQueueManager(knex, { observers });
  const supervisor = (id = "boss", options: SupervisorOptions = {}) =>
    new SupervisorCoordinator(id, knex, { observers, ...options });
  return {
    knex,
    events,
    registry,
    queue,
    supervisor,
    boss: supervisor(),

    /** Its promise to beat outlasts any test, on any machine: only `silence` makes it miss a beat. */
    agent: (agentId: string, capabilities: string[] = ["x"], maxConcurrentTasks = 1) =>
      registry.registerAgent({ agentId, capabilities, maxConcurrentTasks, staleAfterMs: DAY_MS }),

    /** The one message that waits for the agent, claimed. */
    async next(agentId: string) {
      const [message] = await queue.getMessages(agentId, { limit: 1 });
      if (message === undefined) throw new Error(`nothing waits for ${agentId}`);
      return message;
    },

    /** Claims the agent's next assignment, answers it and acknowledges it. */
    async answer(agentId: string, content: Record<string, unknown>, messageType?: string) {
      const message = await this.next(agentId);
      const { task_id, assignment } = message.content as Record<string, unknown>;
      await message.reply(
        { task_id, assignment, ...content },
        messageType === undefined ? {} : { messageType },
      );
      await message.ack();
      return message;
    },

    /** The database's clock moves on for this agent: its last heartbeat is that much older. */
    silence: (agentId: string, ms = 2 * DAY_MS) =>
      knex("outbox_agents")
        .where({ agent_id: agentId })
        .update({ heartbeat_at: knex.raw("heartbeat_at - ?", [ms]) }),

    /** The deadline of a task passes. */
    expire: (taskId: string) =>
      knex("outbox_tasks").where({ task_id: taskId }).update({ deadline_at: 1 }),

    told: (type: OutboxEvent["type"]) =>
      events.filter((event) => event.type === type) as Extract<
        OutboxEvent,
        { type: typeof type }
      >[],

    taskEvents: () => events.flatMap((event) => (event.type === "task" ? [event.event] : [])),
  };
}

export async function wipe(database: TestDatabase): Promise<void> {
  const tables = ["tasks", "agent_capabilities", "agents", "messages", "archive"];
  for (const table of [...tables, "dead_letters", "dedupe", "mailboxes"]) {
    await database.knex()(`outbox_${table}`).del();
  }
}
