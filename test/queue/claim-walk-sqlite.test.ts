import knexFactory, { type Knex } from "knex";
import { describe, expect, it, onTestFinished } from "vitest";
import { knexConfig } from "../../lib/index.ts";
import { ClaimWalk, type Look } from "../../lib/store/claim-walk.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";
import { statementsOf } from "../support/plans.ts";
import { mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

const ALL: Look = {};
/** So many leased messages are worth to be passed over. */
const MANY = 2_500;

describe("where claims that are counted begin to look", () => {
  const rows = (count: number) => Array.from({ length: count }, (_, n) => ({ rank: 80, seq: n }));

  it("counts before the end of the last claim, now and then", () => {
    const walk = new ClaimWalk();
    expect(walk.toCount(0)).toBeUndefined();
    walk.foundFar(ALL, rows(10), false, 1, 10);
    expect(walk.full).toBe(true);
    expect(walk.toCount(0)).toEqual({ rank: 80, seq: 9, most: 2_010 });
    expect(walk.toCount(200)).toBeUndefined();
    expect(walk.toCount(300)).toBeDefined();
    walk.foundFar(ALL, [], false, 1, 10);
    expect(walk.full).toBe(false);
    expect(walk.toCount(1_000)).toBeUndefined();
  });

  it("is behind what was claimed where much lies before it, until it starts over", () => {
    const walk = new ClaimWalk();
    walk.foundFar(ALL, rows(10), true, 1, 10);
    expect(walk.look(0).ranges).toBeDefined();
    expect(walk.toCount(10_000)).toBeUndefined();
    walk.foundFar(walk.look(1), rows(10), true, 1, 10);
    expect(walk.look(2).ranges).toBeDefined();
    walk.startOver();
    expect(walk.look(3)).toEqual({});
  });

  it("forgets with each look at all how far it was before", () => {
    const walk = new ClaimWalk();
    walk.foundFar(ALL, [{ rank: 80, seq: 50_000 }], true, 1, 10);
    // Something with an earlier place had fallen due.
    walk.foundFar(ALL, [{ rank: 80, seq: 7_000 }], true, 1, 10);
    expect(JSON.parse(walk.look(0).ranges ?? "")[1]).toMatchObject({ first: 80, after: 6_000 });
  });
});

eachDatabase("claims past what is leased", (database) => {
  const onSqlite = it.skipIf(database.dialect !== "sqlite");
  const claimOf = (knex: Knex, agentId: string, walk: ClaimWalk, limit = 1) =>
    dialectFor(database.dialect, "outbox_").claim(knex, {
      ...{ agentId, limit, leaseMs: 30_000, workerId: "w", messageTypes: null, walk },
    });
  const ids = (rows: readonly { message_id: string }[]) => rows.map((row) => row.message_id);

  /** `MANY` leased messages of a mailbox, and behind them some that are ready. */
  async function stage(ready: number) {
    const { url, knex } = await database.fresh();
    const { queue } = watched(knex, { notify: false });
    const to = mailbox();
    const send = (count: number) =>
      queue.sendMessages(Array.from({ length: count }, (_, n) => note(to, { n })));
    await send(MANY);
    const leased = await claimOf(knex, to, new ClaimWalk(), MANY);
    const sent = await send(ready);
    return { url, knex, queue, to, leased, ready: sent.map(({ messageId }) => messageId) };
  }

  const giveBack = (knex: Knex, messageId: string | undefined) =>
    knex("outbox_messages").where({ message_id: messageId }).update({ visible_at: 0 });

  onSqlite(
    "begin behind it after they were counted, and take the same in the same order",
    async () => {
      const { knex, to, ready } = await stage(40);
      const walk = new ClaimWalk();
      const claimed: string[] = [];
      const begins = [];
      for (let n = 0; n < 4; n++) {
        const statements = await statementsOf(knex, async () => {
          claimed.push(...ids(await claimOf(knex, to, walk, 10)));
        });
        begins.push(statements.at(-1)?.sql.includes("seq > ?"));
      }
      expect(claimed).toEqual(ready);
      // The first knows of none before it, the second counts.
      expect(begins).toEqual([false, false, true, true]);
    },
  );

  onSqlite("find what was given back far behind as soon as nothing else is there", async () => {
    const { knex, to, leased, ready } = await stage(30);
    const walk = new ClaimWalk();
    for (let n = 0; n < 3; n++) await claimOf(knex, to, walk, 10);
    const [first] = leased;
    await giveBack(knex, first?.message_id);
    expect(ready).toHaveLength(30);
    expect(ids(await claimOf(knex, to, walk, 10))).toEqual([first?.message_id]);
    expect(await claimOf(knex, to, walk, 10)).toEqual([]);
  });

  onSqlite(
    "find what another process gave back far behind although there is always more",
    TIMED,
    async () => {
      const { url, knex, to, leased } = await stage(1_000);
      const other = knexFactory(knexConfig(url));
      onTestFinished(() => other.destroy());
      const walk = new ClaimWalk();
      for (let n = 0; n < 3; n++) await claimOf(knex, to, walk);
      await giveBack(other, leased[0]?.message_id);
      expect(ids(await claimOf(knex, to, walk))).not.toContain(leased[0]?.message_id);
      const until = performance.now() + 10_000;
      for (;;) {
        const [row] = await claimOf(knex, to, walk);
        if (row?.message_id === leased[0]?.message_id) break;
        expect(row, "there is always more").toBeDefined();
        expect(performance.now(), "it was never found").toBeLessThan(until);
        // What was taken is ready again: near to what was claimed.
        await giveBack(other, row?.message_id);
      }
    },
  );

  onSqlite("take what fell due by its old place", async () => {
    const { knex, to, leased } = await stage(30);
    const walk = new ClaimWalk();
    for (let n = 0; n < 3; n++) await claimOf(knex, to, walk, 5);
    const due = leased[5]?.message_id;
    await knex("outbox_messages")
      .where({ message_id: due })
      .update({ state: 1, visible_at: 0, due_at: 1, worker_id: null });
    expect(ids(await claimOf(knex, to, walk, 5))[0]).toBe(due);
  });

  onSqlite("take what comes with a higher priority first", async () => {
    const { knex, queue, to } = await stage(30);
    const walk = new ClaimWalk();
    for (let n = 0; n < 3; n++) await claimOf(knex, to, walk, 5);
    const { messageId: low } = await queue.sendMessage({ ...note(to), priority: "LOW" });
    const { messageId: high } = await queue.sendMessage({ ...note(to), priority: "CRITICAL" });
    const claimed = ids(await claimOf(knex, to, walk, 17));
    expect(claimed[0]).toBe(high);
    expect(claimed.at(-1)).toBe(low);
  });
});
