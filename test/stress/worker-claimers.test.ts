import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";

const CLAIMERS = 8;

eachDatabase("eight claiming processes", (database) => {
  it("G1, G3: are handed out each of thousands of messages once, and none is lost", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    // A SQL Server whose READPAST waits (there are such) lets one claimer in at a time.
    const messages = database.dialect === "mssql" ? 1_000 : 5_000;
    const sent = await queue.sendMessages(
      Array.from({ length: messages }, (_, n) => note(to, { n })),
    );
    const claimers = Array.from({ length: CLAIMERS }, () =>
      spawnScript("test/stress/programs/worker.ts", [
        database.url(),
        to,
        JSON.stringify({ quiet: true, concurrency: 4, pollMs: { min: 5, max: 50 } }),
      ]),
    );
    await Promise.all(claimers.map((claimer) => claimer.message()));
    for (const claimer of claimers) claimer.send({ begin: true });
    await until(
      async () => {
        const { pending, leased } = await queue.getQueueStats(to);
        return pending + leased === 0;
      },
      { timeoutMs: 150_000, everyMs: 100 },
    );
    const handled: string[] = [];
    for (const claimer of claimers) {
      claimer.send({ ask: "stats" });
      const stats = await claimer.message<{ handled: string[]; lost: number; failed: number }>();
      expect(stats).toMatchObject({ lost: 0, failed: 0 });
      handled.push(...stats.handled);
    }
    expect(handled).toHaveLength(messages);
    expect(new Set(handled)).toEqual(new Set(sent.map(({ messageId }) => messageId)));
  });
});
