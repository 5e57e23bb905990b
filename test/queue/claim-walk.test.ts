import pg from "pg";
import { describe, expect, it, onTestFinished } from "vitest";
import { ClaimWalk } from "../../lib/store/claim-walk.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";
import { statementsOf } from "../support/plans.ts";
import { mailbox, note, watched } from "../support/queue.ts";

const DEAR_MS = 100;

describe("where claims begin to look", () => {
  it("is the beginning, as long as claims do not walk far", () => {
    const walk = new ClaimWalk();
    expect(walk.ranges()).toBeUndefined();
    walk.all([{ rank: 80, seq: 5 }], 1, 100);
    expect(walk.ranges()).toBeUndefined();
  });

  it("is behind what was claimed, rank by rank, where they do; nothing between two ranks is left out", () => {
    const walk = new ClaimWalk();
    walk.all([{ rank: 80, seq: 5_000 }], DEAR_MS, DEAR_MS, 0);
    walk.beyond([
      { rank: 60, seq: 7_000 },
      { rank: 80, seq: 4_000 },
    ]);
    expect(JSON.parse(walk.ranges(10) ?? "")).toEqual([
      { first: Number.MIN_SAFE_INTEGER, after: 0, last: 59 },
      { first: 60, after: 6_000, last: 79 },
      { first: 80, after: 4_000, last: Number.MAX_SAFE_INTEGER },
    ]);
  });

  it("is the beginning again after a second, or after ten times what that takes", () => {
    const walk = new ClaimWalk();
    walk.all([{ rank: 80, seq: 5_000 }], DEAR_MS, DEAR_MS / 2, 0);
    expect(walk.ranges(999)).toBeDefined();
    expect(walk.ranges(1_000)).toBeUndefined();
    walk.all([{ rank: 80, seq: 6_000 }], DEAR_MS, 500, 1_000);
    expect(walk.ranges(5_999)).toBeDefined();
    expect(walk.ranges(6_000)).toBeUndefined();
  });

  it("is the beginning from then on when a walk was short", () => {
    const walk = new ClaimWalk();
    walk.all([{ rank: 80, seq: 5_000 }], DEAR_MS, DEAR_MS, 0);
    walk.all([{ rank: 80, seq: 6_000 }], 1, DEAR_MS, 0);
    expect(walk.ranges(1)).toBeUndefined();
  });

  it("is the beginning where ranks are places in time", () => {
    const walk = new ClaimWalk();
    const rows = Array.from({ length: 17 }, (_, n) => ({ rank: 1_000 + n, seq: n + 1 }));
    walk.all(rows, DEAR_MS, DEAR_MS, 0);
    expect(walk.ranges(1)).toBeUndefined();
  });
});

eachDatabase("claims that begin behind what was claimed", (database) => {
  const claimOf = (agentId: string, walk: ClaimWalk, limit = 10) => {
    const dialect = dialectFor(database.dialect, "outbox_");
    return dialect.claim(database.knex(), {
      ...{ agentId, limit, leaseMs: 30_000, workerId: "w", messageTypes: null, walk },
    });
  };

  it("keep the order of priorities, and take new ones of every priority", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages([note(to), note(to)]);
    const walk = new ClaimWalk();
    walk.all(await claimOf(to, walk), DEAR_MS, 0);
    expect(walk.ranges()).toBeDefined();
    const sent = [];
    for (const priority of ["NORMAL", "LOW", "CRITICAL", "HIGH", "NORMAL"] as const) {
      sent.push((await queue.sendMessage({ ...note(to), priority })).messageId);
    }
    const [normal, low, critical, high, second] = sent;
    const claimed = await claimOf(to, walk);
    expect(claimed.map((row) => row.message_id)).toEqual([critical, high, normal, second, low]);
  });

  it("never lock more than they were asked for", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const walk = new ClaimWalk();
    await queue.sendMessage(note(to));
    walk.all(await claimOf(to, walk), DEAR_MS, 0);
    await queue.sendMessages(
      Array.from({ length: 9 }, (_, n) => ({
        ...note(to),
        priority: (["LOW", "NORMAL", "HIGH"] as const)[n % 3],
      })),
    );
    const sizes = [];
    for (let n = 0; n < 3; n++) sizes.push((await claimOf(to, walk, 4)).length);
    expect(sizes).toEqual([4, 4, 1]);
  });

  it.skipIf(database.dialect !== "postgres")(
    "pass over what lies far back until the next walk from the beginning",
    async () => {
      const { queue } = watched(database.knex());
      const to = mailbox();
      const { messageId } = await queue.sendMessage(note(to));
      const walk = new ClaimWalk();
      const [row] = await claimOf(to, new ClaimWalk());
      const far = { rank: row?.rank ?? 0, seq: (row?.seq ?? 0) + 2_000 };
      await database
        .knex()("outbox_messages")
        .where({ message_id: messageId })
        .update({
          ...{ worker_id: null, visible_at: 0 },
        });
      walk.all([far], DEAR_MS, 0);
      expect(await claimOf(to, walk)).toEqual([]);
      // The time for the next walk has come.
      walk.all([far], DEAR_MS, 0, performance.now() - 1_000);
      expect((await claimOf(to, walk)).map((claimed) => claimed.message_id)).toEqual([messageId]);
    },
  );

  it.skipIf(database.dialect !== "postgres")(
    "do not read what a transaction held open keeps of finished messages",
    async () => {
      const { url, knex } = await database.fresh();
      const holder = new pg.Client({ connectionString: url });
      await holder.connect();
      onTestFinished(() => holder.end());
      await holder.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
      await holder.query("SELECT 1");
      const { queue } = watched(knex, { notify: false });
      const dialect = dialectFor("postgres", "outbox_");
      const walk = new ClaimWalk();
      const claim = (over?: ClaimWalk) =>
        dialect.claim(knex, {
          ...{ agentId: "a", limit: 500, leaseMs: 30_000, workerId: "w", messageTypes: null },
          walk: over,
        });
      for (let n = 0; n < 12; n++) {
        await queue.sendMessages(Array.from({ length: 500 }, () => note("a")));
        const rows = await claim();
        await dialect.complete(knex, rows, true);
        walk.all(rows, DEAR_MS, 0);
      }

      const asker = new pg.Client({ connectionString: url });
      await asker.connect();
      onTestFinished(() => asker.end());
      const pagesOf = async (over?: ClaimWalk): Promise<number> => {
        const [statement] = await statementsOf(knex, () => claim(over));
        const { rows } = await asker.query(
          `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${statement?.sql}`,
          statement?.bindings,
        );
        return rows[0]["QUERY PLAN"][0].Plan["Shared Hit Blocks"];
      };
      const [all, beyond] = [await pagesOf(), await pagesOf(walk)];
      // The margin of a thousand is a sixth of the six thousand that have ended.
      expect(beyond).toBeLessThan(all / 3);
    },
  );
});
