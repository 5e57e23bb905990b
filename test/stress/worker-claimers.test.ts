import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";

const CLAIMERS = 8;
const MESSAGES = 5_000;

eachDatabase("eight claiming processes", (database) => {
  it("G1, G3: are handed out each of 5,000 messages once, and none is lost", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const sent = await queue.sendMessages(
      Array.from({ length: MESSAGES }, (_, n) => note(to, { n })),
    );
    const claimers = Array.from({ length: CLAIMERS }, () =>
      spawnScript("test/stress/programs/worker.ts", [
        database.url(),
        to,
        JSON.stringify({ quiet: true, concurrency: 4, batchSize: 50 }),
      ]),
    );
    await Promise.all(claimers.map((claimer) => claimer.message()));
    for (const claimer of claimers) claimer.send({ begin: true });
    await until(
      async () => {
        const { pending, leased } = await queue.getQueueStats(to);
        return pending + leased === 0;
      },
      { timeoutMs: 40_000, everyMs: 100 },
    );
    const handled: string[] = [];
    for (const claimer of claimers) {
      claimer.send({ ask: "stats" });
      const stats = await claimer.message<{ handled: string[]; lost: number; failed: number }>();
      expect(stats).toMatchObject({ lost: 0, failed: 0 });
      handled.push(...stats.handled);
    }
    expect(handled).toHaveLength(MESSAGES);
    expect(new Set(handled)).toEqual(new Set(sent.map(({ messageId }) => messageId)));
  }, 60_000);
});
