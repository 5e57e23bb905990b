import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { effects, effectsTable } from "../stress/effects.ts";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { mailbox, watched } from "../support/queue.ts";

const MESSAGES = 60;
const KILLS = 4;

eachDatabase("workers that are killed at any moment", (database) => {
  const messages = (to: string, delivery: "AT_MOST_ONCE" | "EXACTLY_ONCE") =>
    Array.from({ length: MESSAGES }, (_, n) => ({
      ...{ toAgent: to, fromAgent: "asker", messageType: "NOTE", content: { n } },
      ...{ messageId: `${to}-${n}`, maxAttempts: 20, delivery },
    }));

  /** Kills two workers at a time in the midst of their work; the last two may finish. */
  const rage = async (to: string, meanwhile: () => Promise<unknown>) => {
    for (let kills = 0; kills <= KILLS; kills++) {
      const pair = [1, 2].map(() =>
        spawnScript("test/queue/programs/delivers.ts", [database.url(), to]),
      );
      if (kills === KILLS) break;
      const busy = () => pair.some((script) => script.messages().length > 0);
      await until(async () => busy() || (await left(to)) === 0);
      for (const script of pair) {
        await sleep(Math.random() * 15);
        script.kill("SIGKILL");
      }
      await Promise.all(pair.map(({ exited }) => exited));
      await meanwhile();
    }
    await until(async () => (await left(to)) === 0);
  };
  const left = async (to: string) =>
    (await database.knex()("outbox_messages").where({ to_agent: to })).length;

  it("never run a message of AT_MOST_ONCE twice", async () => {
    await effectsTable(database.knex());
    const { queue } = watched(database.knex());
    const to = mailbox("once");
    await queue.sendMessages(messages(to, "AT_MOST_ONCE"));
    await rage(to, async () => {});
    const counts = await effects(database.knex());
    const seen = messages(to, "AT_MOST_ONCE").map(({ messageId }) => counts.get(messageId) ?? 0);
    expect(Math.max(...seen)).toBe(1);
    // What a worker had in hand when it was killed may be lost: four runs at most, of each, each time.
    expect(seen.filter((count) => count === 0).length).toBeLessThanOrEqual(2 * 4 * KILLS);
    expect(await queue.deadLetters.list({ agentId: to })).toEqual([]);
  });

  it("have the effects of EXACTLY_ONCE once, though the sender repeats itself and the archive is gone", async () => {
    await effectsTable(database.knex());
    const { queue } = watched(database.knex());
    const to = mailbox("effectively");
    const batch = messages(to, "EXACTLY_ONCE");
    await queue.sendMessages(batch);
    await rage(to, async () => {
      await database.knex()("outbox_dedupe").del();
      await database.knex()("outbox_archive").del();
      await queue.sendMessages(batch.slice(0, MESSAGES / 2));
    });
    const counts = await effects(database.knex());
    expect(batch.map(({ messageId }) => counts.get(messageId))).toEqual(batch.map(() => 1));
    expect(await queue.deadLetters.list({ agentId: to })).toEqual([]);
  });
});
