import pg from "pg";
import { describe, expect, it, onTestFinished } from "vitest";
import { ClaimWalk } from "../../lib/store/claim-walk.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { type DueFound, type DueLook, DueWalk } from "../../lib/store/due-walk.ts";
import { eachDatabase } from "../support/databases.ts";
import { statementsOf } from "../support/plans.ts";
import { mailbox, note, watched } from "../support/queue.ts";

const ALL: DueLook = { promote: 500 };
const NONE = { count: 0, last: null, all: true, claimed: 0 };
const MORE = { count: 500, last: 700_000, all: false, claimed: 0 };
const LATE = { ...NONE, now: 1_000_000, walkedMs: 100, tookMs: 100 };

/** Two claims that walked for long, one after the other: one is no proof. */
function walked(due: DueWalk, found: DueFound, at?: number): void {
  due.found(ALL, found, at);
  expect(due.far).toBe(false);
  due.found(ALL, found, at);
}

describe("where claims look for messages that fell due", () => {
  it("is everywhere, as long as that is quick", () => {
    const due = new DueWalk();
    due.found(ALL, { ...NONE, now: 1_000_000, walkedMs: 1, tookMs: 1 }, 0);
    expect(due.look(true, 1)).toEqual(ALL);
    expect(due.far).toBe(false);
  });

  it("is what fell due since nothing was left, with a margin, where it is not", () => {
    const due = new DueWalk();
    walked(due, LATE, 0);
    expect(due.far).toBe(true);
    expect(due.look(true, 999)).toEqual({ after: 999_900, promote: 5_000 });
    due.found(due.look(true, 999), { ...NONE, now: 1_000_500, walkedMs: 1, tookMs: 1 }, 999);
    expect(due.look(true, 999).after).toBe(1_000_400);
  });

  it("is what fell due after the last one that became ready, where there may be more of them", () => {
    const due = new DueWalk();
    walked(due, { ...MORE, now: 1_000_000, walkedMs: 100, tookMs: 100 }, 0);
    expect(due.look(true, 1).after).toBe(699_900);
    expect(due.mostlyReady).toBe(false);
    due.found(
      due.look(true, 1),
      { ...MORE, now: 1_000_100, walkedMs: 1, tookMs: 1, count: 4_999, all: true },
      1,
    );
    expect(due.look(true, 1).after).toBe(1_000_000);
    due.found(due.look(true, 1), { ...NONE, now: 1_000_200, walkedMs: 1, tookMs: 1 }, 1);
    expect(due.mostlyReady).toBe(true);
  });

  it("does not take many that fell due for a long way", () => {
    const due = new DueWalk();
    for (let n = 0; n < 10; n++) {
      due.found(ALL, { ...MORE, now: 1_000_000, walkedMs: 8, tookMs: 8 }, 0);
    }
    expect(due.far).toBe(false);
  });

  it("does not take many that were claimed beside them for one", () => {
    const claims = (claimed: number) => {
      const due = new DueWalk();
      const found = { ...MORE, now: 1_000_000, walkedMs: 13, tookMs: 13, claimed };
      for (let n = 0; n < 10; n++) due.found(ALL, found, 0);
      return due.far;
    };
    expect(claims(500)).toBe(false);
    expect(claims(100)).toBe(true);
  });

  it("takes no claim that was held up, nor two that were for a moment, for a long way", () => {
    const due = new DueWalk();
    const took = (walkedMs: number) => {
      due.found(ALL, { ...LATE, walkedMs, tookMs: walkedMs }, 0);
      return due.far;
    };
    expect([200, 1, 200, 1, 5, 5, 5, 1].map(took)).toEqual(Array(8).fill(false));
    expect(Array.from({ length: 10 }, () => took(5))).toEqual([...Array(9).fill(false), true]);
  });

  it("is everywhere after claims that found nothing, unless it was far before", () => {
    const due = new DueWalk();
    const silent = { ...NONE, now: 1_000_000, walkedMs: undefined, tookMs: 100 };
    due.found(ALL, silent, 0);
    expect(due.far).toBe(false);
    walked(due, LATE, 0);
    due.found(due.look(true, 1_000), silent, 1_000);
    expect(due.far).toBe(true);
    due.found(due.look(true, 2_000), { ...silent, tookMs: 1 }, 2_000);
    expect(due.far).toBe(false);
  });

  it("is everywhere again within a second, or for a tenth of the time, by one claim at a time", () => {
    const due = new DueWalk();
    walked(due, LATE, 0);
    expect(due.look(false, 1_000).after).toBe(999_900);
    expect(due.look(true, 1_000).after).toBeUndefined();
    expect(due.look(true, 1_000).after).toBe(999_900);
    due.found({ promote: 5_000 }, { ...LATE, walkedMs: 300, tookMs: 300 }, 1_300);
    expect(due.look(true, 4_299).after).toBe(999_900);
    expect(due.look(true, 4_300).after).toBeUndefined();
    due.found({ promote: 5_000 }, { ...LATE, walkedMs: 1, tookMs: 1 }, 4_301);
    expect(due.look(true, 4_302)).toEqual(ALL);
  });

  it("goes back with the clock of the server, when it looks everywhere", () => {
    const due = new DueWalk();
    walked(due, LATE, 0);
    due.found({ promote: 5_000 }, { ...LATE, now: 5_000 }, 1_000);
    expect(due.look(true, 1_001).after).toBe(4_900);
  });
});

eachDatabase("claims that look for what fell due behind what did before", (database) => {
  const claimOf = (agentId: string, walk: ClaimWalk, knex = database.knex(), limit = 10) =>
    dialectFor(database.dialect, "outbox_").claim(knex, {
      ...{ agentId, limit, leaseMs: 30_000, workerId: "w", messageTypes: null, walk },
    });

  /** Has all messages of a mailbox fall due, each a millisecond before the next, the last one so long ago. */
  const fallDue = (agentId: string, agoMs: number, knex = database.knex()) => {
    const at = Date.now() - agoMs;
    const due = knex.raw(`${at} - (SELECT max(seq) FROM outbox_messages) + seq`);
    return knex("outbox_messages")
      .where({ to_agent: agentId, state: 1 })
      .update({ due_at: due, visible_at: due });
  };

  it("take all of them, in the order of their instants, and ready ones beside them", async () => {
    const { queue } = watched(database.knex(), { notify: false });
    const to = mailbox();
    const walk = new ClaimWalk();
    walked(walk.due, { ...LATE, now: Date.now() - 60_000 });
    const sent = await queue.sendMessages(
      Array.from({ length: 25 }, () => ({ ...note(to), delayMs: 60_000 })),
    );
    await fallDue(to, 1_000);
    const claimed = [];
    for (let rows = await claimOf(to, walk); rows.length > 0; rows = await claimOf(to, walk)) {
      claimed.push(...rows);
    }
    expect(claimed.map((row) => row.message_id)).toEqual(sent.map(({ messageId }) => messageId));
    const { messageId } = await queue.sendMessage(note(to));
    expect((await claimOf(to, walk)).map((row) => row.message_id)).toEqual([messageId]);
  });

  it.skipIf(database.dialect !== "postgres")(
    "pass over one that fell due before, until they look at all again",
    async () => {
      const { queue } = watched(database.knex(), { notify: false });
      const to = mailbox();
      const walk = new ClaimWalk();
      const { messageId } = await queue.sendMessage({ ...note(to), delayMs: 60_000 });
      await fallDue(to, 30_000);
      walked(walk.due, { ...LATE, now: Date.now() });
      expect(await claimOf(to, walk)).toEqual([]);
      walk.due.found(ALL, { ...LATE, now: Date.now() }, performance.now() - 1_000);
      expect((await claimOf(to, walk)).map((row) => row.message_id)).toEqual([messageId]);
    },
  );

  it.skipIf(database.dialect !== "postgres")(
    "do not read what a transaction held open keeps of those that fell due",
    async () => {
      const { url, knex } = await database.fresh();
      const connected = async () => {
        const client = new pg.Client({ connectionString: url });
        await client.connect();
        onTestFinished(() => client.end());
        return client;
      };
      const { queue } = watched(knex, { notify: false });
      const later = { ...note("a"), delayMs: 60_000 };
      await queue.sendMessages(Array.from({ length: 6_000 }, () => later));
      await fallDue("a", 1_000, knex);
      await knex.raw("VACUUM outbox_messages");
      const holder = await connected();
      await holder.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
      await holder.query("SELECT 1");
      const walk = new ClaimWalk();
      walked(walk.due, { ...LATE, now: 0 });
      const dialect = dialectFor("postgres", "outbox_");
      for (let ended = 0; ended < 6_000; ) {
        const rows = await claimOf("a", walk, knex, 500);
        ended += rows.length;
        await dialect.complete(knex, rows, true);
      }
      expect(await claimOf("a", walk, knex)).toEqual([]);

      const asker = await connected();
      /** What the first statement of a claim reads, and what it would if it began where all others do. */
      const pagesOf = async (over: ClaimWalk): Promise<number> => {
        const [statement] = await statementsOf(knex, () => claimOf("a", over, knex));
        const { rows } = await asker.query(
          `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${statement?.sql}`,
          statement?.bindings,
        );
        return rows[0]["QUERY PLAN"][0].Plan["Shared Hit Blocks"];
      };
      const ready = new ClaimWalk();
      const END = [{ rank: 80, seq: 1_000_000 }];
      for (const over of [walk, ready]) {
        over.found({}, END, 100, 100);
      }
      await queue.sendMessage(note("a"));
      const all = await pagesOf(ready);
      // Anew: on a slow machine it was time to look at all of it meanwhile, and that may have been quick.
      for (let n = 0; n < 2; n++) walk.due.found(ALL, { ...LATE, now: Date.now() });
      walk.found({}, END, 100, 100);
      expect(await pagesOf(walk)).toBeLessThan(all / 3);
    },
  );
});
