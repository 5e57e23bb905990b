import pg from "pg";
import { describe, expect, it, onTestFinished } from "vitest";
import { ClaimWalk, type Look } from "../../lib/store/claim-walk.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";
import { statementsOf } from "../support/plans.ts";
import { mailbox, note, watched } from "../support/queue.ts";

const DEAR_MS = 100;

/** The ranges of a look. */
const rangesOf = ({ ranges }: Look) => (ranges === undefined ? undefined : JSON.parse(ranges));
const ALL: Look = {};
const BEYOND: Look = { ranges: "[]" };

describe("where claims begin to look", () => {
  const LEAST = Number.MIN_SAFE_INTEGER;
  const MOST = Number.MAX_SAFE_INTEGER;

  it("is the beginning, as long as claims do not walk far", () => {
    const walk = new ClaimWalk();
    expect(walk.look()).toEqual({});
    walk.found(ALL, [{ rank: 80, seq: 5 }], 1, 100);
    expect(walk.look()).toEqual({});
  });

  it("is behind what was claimed, rank by rank, where they do; nothing between two ranks is left out", () => {
    const walk = new ClaimWalk();
    walk.found(ALL, [{ rank: 80, seq: 5_000 }], DEAR_MS, DEAR_MS, 0);
    walk.found(
      BEYOND,
      [
        { rank: 60, seq: 7_000 },
        { rank: 80, seq: 4_000 },
      ],
      1,
      1,
    );
    expect(rangesOf(walk.look(10))).toEqual([
      { first: LEAST, after: 0, last: 59, until: MOST },
      { first: 60, after: 6_000, last: 79, until: MOST },
      { first: 80, after: 4_000, last: MOST, until: MOST },
    ]);
  });

  /** Looks until the slice that begins at `after` or behind it, and tells all of them. */
  function slices(walk: ClaimWalk, from: number, tookMs: number, count: number) {
    const seen: { at: number; rank: number; after: number; until: number }[] = [];
    for (let now = from; seen.length < count; now += 10) {
      const look = walk.look(now);
      if (look.slice !== undefined) seen.push({ at: now, ...look.slice });
      walk.found(look, [], undefined, look.slice === undefined ? 1 : tookMs, now);
      if (now > from + 100_000) throw new Error("no more slices");
    }
    return seen;
  }

  it("comes back to all that was passed over, slice by slice, for a tenth of the time", () => {
    const walk = new ClaimWalk();
    walk.found(ALL, [{ rank: 80, seq: 26_000 }], DEAR_MS, DEAR_MS / 2, 0);
    expect(walk.look(999).slice).toBeUndefined();
    const seen = slices(walk, 1_000, 12, 4);
    expect(seen.map(({ after, until }) => [after, until])).toEqual([
      [0, 10_000],
      [10_000, 20_000],
      [20_000, 25_000],
      [0, 10_000],
    ]);
    // Ten times what a slice takes lies between two.
    expect(seen.map(({ at }) => at)).toEqual([1_000, 1_120, 1_240, 2_000]);
    expect(rangesOf(walk.look(10_000)).slice(1)).toEqual([
      { first: 80, after: 10_000, last: 80, until: 20_000 },
      { first: 80, after: 25_000, last: MOST, until: MOST },
    ]);
  });

  it("comes back in smaller slices where they take long, and in larger ones where they do not", () => {
    const walk = new ClaimWalk();
    walk.found(ALL, [{ rank: 80, seq: 1_000_000 }], DEAR_MS, DEAR_MS, 0);
    const widths = (tookMs: number, count: number) =>
      slices(walk, 1_000, tookMs, count).map(({ after, until }) => until - after);
    expect(widths(50, 3)).toEqual([10_000, 5_000, 2_500]);
    expect(widths(4.5, 4)).toEqual([1_250, 2_500, 5_000, 10_000]);
  });

  it("stays at a slice in which something was found", () => {
    const walk = new ClaimWalk();
    walk.found(ALL, [{ rank: 80, seq: 50_000 }], DEAR_MS, DEAR_MS, 0);
    const first = walk.look(1_000);
    walk.found(first, [{ rank: 80, seq: 7 }], 12, 12, 1_000);
    expect(walk.look(1_000).slice).toEqual(first.slice);
  });

  it("comes back to every rank in turn", () => {
    const walk = new ClaimWalk();
    const rows = [60, 80].map((rank) => ({ rank, seq: 12_000 }));
    walk.found(ALL, rows, DEAR_MS, DEAR_MS, 0);
    expect(slices(walk, 1_000, 12, 5).map(({ rank, after }) => [rank, after])).toEqual([
      [60, 0],
      [60, 10_000],
      [80, 0],
      [80, 10_000],
      [60, 0],
    ]);
  });

  it("is the beginning from then on when all of it is short again", () => {
    const walk = new ClaimWalk();
    walk.found(ALL, [{ rank: 80, seq: 100_000 }], DEAR_MS, DEAR_MS, 0);
    let now = 1_000;
    for (let look = walk.look(now); look.ranges !== undefined; look = walk.look(now)) {
      walk.found(look, [], undefined, 1, now);
      now += 10;
      if (now > 100_000) throw new Error("it never is");
    }
    walk.found(ALL, [{ rank: 80, seq: 6_000 }], 1, 1, now);
    expect(walk.look(now)).toEqual({});
  });

  it("is behind all that is there where none of it was asked for, until all of it is short", () => {
    const walk = new ClaimWalk();
    walk.found(ALL, [], undefined, 100, 0);
    expect(walk.look(0)).toEqual({});
    walk.passOver([{ rank: 80, seq: 8_000 }], 100, 0);
    expect(walk.passesOver).toBe(true);
    expect(rangesOf(walk.look(1)).at(-1)).toMatchObject({ first: 80, after: 7_000 });
    // More came, and was read for long as well: what was passed over is looked at no later for it.
    walk.found(walk.look(2), [], undefined, 100, 2);
    walk.passOver([{ rank: 80, seq: 9_500 }], 100, 2);
    expect(rangesOf(walk.look(3)).at(-1)).toMatchObject({ first: 80, after: 8_500 });
    const slice = walk.look(1_000);
    expect(slice.slice).toMatchObject({ rank: 80, after: 0, until: 8_500 });
    walk.found(slice, [], undefined, 1, 1_000);
    walk.look(2_100);
    expect(walk.passesOver).toBe(false);
    expect(walk.look(2_101)).toEqual({});
  });

  it("is the beginning within a second where no more than the margin is passed over", () => {
    const walk = new ClaimWalk();
    walk.found(ALL, [{ rank: 80, seq: 900 }], 100, 40, 0);
    expect(walk.look(999).ranges).toBeDefined();
    walk.look(1_000);
    expect(walk.look(1_001)).toEqual({});
  });

  it("is the beginning where ranks are places in time", () => {
    const walk = new ClaimWalk();
    const rows = Array.from({ length: 17 }, (_, n) => ({ rank: 1_000 + n, seq: n + 1 }));
    walk.found(ALL, rows, DEAR_MS, DEAR_MS, 0);
    expect(walk.look(1)).toEqual({});
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
    walk.found(ALL, await claimOf(to, walk), DEAR_MS, 0);
    expect(walk.look().ranges).toBeDefined();
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
    walk.found(ALL, await claimOf(to, walk), DEAR_MS, 0);
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
    "pass over what lies far back until its slice is looked at",
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
      walk.found(ALL, [far], DEAR_MS, 0);
      expect(await claimOf(to, walk)).toEqual([]);
      // The time for the next slice has come.
      walk.found(ALL, [far], DEAR_MS, 0, performance.now() - 1_000);
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
      let last: Awaited<ReturnType<typeof claim>> = [];
      for (let n = 0; n < 12; n++) {
        await queue.sendMessages(Array.from({ length: 500 }, () => note("a")));
        last = await claim();
        await dialect.complete(knex, last, true);
        walk.found(ALL, last, DEAR_MS, 0);
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
      const all = await pagesOf();
      // Anew: on a slow machine it was time to look further back meanwhile.
      walk.found(ALL, last, DEAR_MS, 0);
      const beyond = await pagesOf(walk);
      // The margin of a thousand is a sixth of the six thousand that have ended.
      expect(beyond).toBeLessThan(all / 3);
    },
  );
});
