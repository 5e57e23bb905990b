import type { AgentRegistry } from "./agent-registry.ts";
import type { MessageQueueManager } from "./queue/manager.ts";

/** The health of an outbox: its three main findings, and what was found. */
export interface Health {
  /** The database answered. */
  database_connected: boolean;
  /** How many agents are registered; 0 when the database does not answer. */
  agents_registered: number;
  /** A probe message was stored and read back, in a transaction that was rolled back. */
  queue_operational: boolean;
  /** How long the probe took, in milliseconds. */
  probe_ms: number | null;
  /** What failed, for a person. */
  problems: { check: string; message: string; remedy: string }[];
}

class Undo extends Error {}

/** Looks at the database for real: nothing is inferred from figures that happen to be there. */
export async function healthCheck(
  queue: MessageQueueManager,
  agents: AgentRegistry,
): Promise<Health> {
  const health: Health = {
    database_connected: await queue.isConnected(),
    agents_registered: 0,
    queue_operational: false,
    probe_ms: null,
    problems: [],
  };
  const check = async (name: string, run: () => Promise<void>): Promise<void> => {
    try {
      await run();
    } catch (error) {
      const { message, recoverySuggestion } = error as Error & { recoverySuggestion?: string };
      health.problems.push({ check: name, message, remedy: recoverySuggestion ?? "" });
    }
  };
  if (!health.database_connected) {
    health.problems.push({
      check: "database_connected",
      message: "the database does not answer",
      remedy: "Check that it is running and that DATABASE_URL is right.",
    });
    return health;
  }
  await check("queue_operational", async () => {
    const since = performance.now();
    health.queue_operational = await probe(queue);
    health.probe_ms = Math.round((performance.now() - since) * 10) / 10;
  });
  await check("agents_registered", async () => {
    health.agents_registered = (await agents.getRegistryStats()).totalAgents;
  });
  return health;
}

async function probe(queue: MessageQueueManager): Promise<boolean> {
  let found = false;
  try {
    await queue.knex.transaction(async (tx) => {
      const { messageId } = await queue.sendMessage(
        { toAgent: "outbox:probe", messageType: "OUTBOX_PROBE", content: { probe: true } },
        { tx },
      );
      found = (await queue.getMessage(messageId, { tx }))?.state === "ready";
      throw new Undo();
    });
  } catch (error) {
    if (!(error instanceof Undo)) throw error;
  }
  return found;
}
