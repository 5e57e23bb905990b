import { expect, onTestFinished } from "vitest";
import type { Scenario } from "../../demo/scenarios/scenario.ts";
import { type Outbox, type OutboxEvent, openOutbox } from "../../lib/index.ts";
import type { FreshDatabase } from "../support/databases.ts";

export interface Played<Result> {
  readonly result: Result;
  readonly outbox: Outbox;
  readonly events: readonly OutboxEvent[];
  /** What the agents said, as `agent: words`. */
  readonly said: readonly string[];
}

/** Plays a scenario on a database of its own, and checks what holds for every one of them. */
export async function played<Result extends object>(
  scenario: Scenario<Result>,
  database: FreshDatabase,
): Promise<Played<Result>> {
  const outbox = await openOutbox({ database: database.url });
  onTestFinished(() => outbox.close());
  const events: OutboxEvent[] = [];
  outbox.observe((told) => events.push(...told));
  const said: string[] = [];
  const result = await scenario.play({
    outbox,
    say: (agentId, words) => said.push(`${agentId}: ${words}`),
  });
  expect(said.length, "it tells what happens").toBeGreaterThan(3);
  // Nothing is left to be done: neither a task without an end nor a message that nobody took.
  expect(await database.knex("outbox_tasks").whereNull("finished_at")).toEqual([]);
  const { dead } = await outbox.queue.getQueueStats();
  expect(dead).toBe(0);
  return { result, outbox, events, said };
}
