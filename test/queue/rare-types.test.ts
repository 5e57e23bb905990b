import { expect, it } from "vitest";
import type { MessageQueueManager } from "../../lib/index.ts";
import { ClaimWalk, rankEnds } from "../../lib/store/claim-walk.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { int, query } from "../../lib/store/sql.ts";
import { eachDatabase, type FreshDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

const MARGIN = 1_000;

eachDatabase("claims of a type that is rare in its mailbox", (database) => {
  // On SQL Server every claim reads what there is.
  const walks = database.dialect !== "mssql";
  /** More than can be read in the 4 ms from which on it is worth to remember. */
  const MANY = walks ? 30_000 : 300;
  const rare = (to: string) => ({ ...note(to), messageType: "RARE" });

  async function stage() {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessages(Array.from({ length: MANY }, () => note("a")));
    const walk = new ClaimWalk();
    const claim = async (limit = 10) => {
      const rows = await dialectFor(database.dialect, "outbox_").claim(knex, {
        ...{ agentId: "a", limit, leaseMs: 30_000, workerId: "w", messageTypes: ["RARE"], walk },
      });
      return rows.map(({ message_id }) => message_id);
    };
    return { knex, queue, walk, claim };
  }

  const send = async (queue: MessageQueueManager, more: object = {}) =>
    (await queue.sendMessage({ ...rare("a"), ...more })).messageId;

  /** Makes the first message of all a rare one, as one would be that was given back. */
  async function giveBack(knex: FreshDatabase["knex"]): Promise<string> {
    const [first] = await knex("outbox_messages").orderBy("seq").limit(1);
    await knex("outbox_messages").where({ seq: first.seq }).update({ message_type: "RARE" });
    return first.message_id;
  }

  it(
    "read what others are there once, and find at once what is sent from then on",
    TIMED,
    async () => {
      const { queue, walk, claim } = await stage();
      expect(await claim()).toEqual([]);
      expect(walk.passesOver).toBe(walks);
      const ranges = JSON.parse(walk.look().ranges ?? "[]") as { after: number }[];
      if (walks) expect(ranges.at(-1)?.after).toBeGreaterThanOrEqual(MANY - MARGIN);
      expect(await claim()).toEqual([]);
      const sent = [
        await send(queue),
        await send(queue, { priority: "HIGH" }),
        await send(queue, { priority: "LOW" }),
      ];
      expect(new Set(await claim())).toEqual(new Set(sent));
      const later = await send(queue);
      expect(await claim()).toEqual([later]);
      expect(await claim()).toEqual([]);
    },
  );

  it("find what comes back far before, too", TIMED, async () => {
    const { knex, walk, claim } = await stage();
    expect(await claim()).toEqual([]);
    expect(walk.passesOver).toBe(walks);
    const back = await giveBack(knex);
    const found = await until(async () => {
      const ids = await claim();
      return ids.length > 0 && ids;
    });
    expect(found).toEqual([back]);
  });

  it.runIf(walks)("know the end of every rank, and when these are too many", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const ends = async () =>
      (await query(knex, rankEnds("outbox_messages"), { agent: "a" })).map(({ rank, seq }) => [
        int(rank),
        int(seq),
      ]);
    expect(await ends()).toEqual([]);
    for (const priority of [30, 10, 30, 20, 10])
      await queue.sendMessage({ ...note("a"), priority });
    await queue.sendMessage(note("b"));
    const rows = await knex("outbox_messages").where({ to_agent: "a" }).orderBy("seq");
    const last = new Map(rows.map(({ rank, seq }) => [int(rank), int(seq)]));
    expect(await ends()).toEqual([...last].sort(([a], [b]) => b - a));
    await queue.sendMessages(
      Array.from({ length: 40 }, (_, n) => ({ ...note("a"), priority: 40 + n })),
    );
    expect(await ends()).toHaveLength(17);
  });
});
