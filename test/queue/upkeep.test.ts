import type { Knex } from "knex";
import { expect, it } from "vitest";
import type { MessageQueueManager } from "../../lib/index.ts";
import { WHILE_IT_LIVES } from "../../lib/store/flow.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";

const DAY = 86_400_000;

async function rows(knex: Knex, table: string, where: object = {}): Promise<number> {
  const [row] = await knex(`outbox_${table}`).where(where).count({ n: "*" });
  return Number((row as { n: unknown }).n);
}

const older = (knex: Knex, table: string, column: string, ms: number) =>
  knex(`outbox_${table}`).update({ [column]: knex.raw("?? - ?", [column, ms]) });

const numbers = (claims: readonly { content: unknown }[]) =>
  claims.map(({ content }) => (content as { n: number }).n);

/** Rounds until nothing is left; returns the sum of their counts. */
async function allOf(queue: MessageQueueManager): Promise<Record<string, number>> {
  const sums: Record<string, number> = {};
  for (let rounds = 0; rounds < 50; rounds++) {
    const { more, ...report } = await queue.maintain();
    expect(report.failed).toEqual([]);
    for (const [name, count] of Object.entries(report)) {
      if (typeof count === "number") sums[name] = (sums[name] ?? 0) + count;
    }
    if (!more) return sums;
  }
  throw new Error("upkeep came to no end");
}

eachDatabase("upkeep", (database) => {
  it("does nothing where nothing is to be done, and says that nothing lags", async () => {
    const { queue } = watched((await database.fresh()).knex);
    await queue.sendMessage(note("a"));
    const { lag, failed, more, ...counts } = await queue.maintain();
    expect({ failed, more }).toEqual({ failed: [], more: false });
    expect(new Set(Object.values(counts))).toEqual(new Set([0]));
    expect(new Set(Object.values(lag ?? {}))).toEqual(new Set([0]));
  });

  it("buries what expired, of keys too", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessages([
      { ...note("a"), ttlMs: 1_000 },
      { ...note("a"), ttlMs: 1_000, orderingKey: "k" },
      { ...note("a"), orderingKey: "k" },
    ]);
    await elapse(knex, 5_000);
    expect((await queue.getQueueStats()).lag.expiredMs).toBeGreaterThanOrEqual(4_000);
    const report = await queue.maintain();
    expect(report).toMatchObject({ expired: 2, lag: { expiredMs: 0 } });
    expect(await rows(knex, "dead_letters", { reason: "expired" })).toBe(2);
    expect(await queue.getMessages("a")).toHaveLength(1);
  });

  it("makes due messages ready where nobody claims, but not what is due just now", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const delayed = (n: number, rest = {}) => ({ ...note("a", { n }), delayMs: 60_000, ...rest });
    const late = await queue.sendMessages([delayed(1), delayed(2, { concurrencyKey: "k" })]);
    await queue.sendMessage(delayed(3));
    await queue.sendMessage({ ...note("b"), delayMs: 60_000 });
    for (const { messageId } of late) await elapse(knex, 65_000, messageId);
    const before = await queue.getQueueStats();
    expect(before.lag.dueMs).toBeGreaterThanOrEqual(4_000);
    expect((await queue.getQueueStats("a")).lag.dueMs).toBeGreaterThanOrEqual(4_000);
    expect((await queue.getQueueStats("b")).lag.dueMs).toBe(0);
    expect(await queue.maintain()).toMatchObject({ promoted: 2, lag: { dueMs: 0 } });
    expect(await queue.getQueueStats("a")).toMatchObject({ pending: 2, scheduled: 1 });
    expect((await queue.maintain()).promoted).toBe(0);
    expect(numbers(await queue.getMessages("a")).sort()).toEqual([1, 2]);
  });

  it("deletes what was kept long enough, each kind by its own retention", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex, { deadLetterRetentionMs: DAY, inboxRetentionMs: 2 * DAY });
    await queue.sendMessages([note("a"), note("a"), { ...note("a"), dedupeKey: "once" }]);
    const [done, dead] = await queue.getMessages("a");
    await done?.ack();
    await dead?.deadLetter("no use");
    const inbox = { consumer: "a", from_agent: "b", processed_at: 1 };
    await knex("outbox_inbox").insert([
      { ...inbox, message_id: "1" },
      { ...inbox, consumer: "z", message_id: "1" },
      { ...inbox, message_id: "2", processed_at: Date.now() },
    ]);
    await knex("outbox_conversations").insert([
      { context_id: "old", messages: 3, updated_at: 1 },
      { context_id: "new", messages: 3, updated_at: Date.now() },
    ]);
    await knex("outbox_consumers").insert({ agent_id: "a", worker_id: "gone", seen_at: 1 });
    expect(await allOf(queue)).toMatchObject({
      ...{ archivePurged: 0, deadLettersPurged: 0, dedupePurged: 0 },
      ...{ inboxPurged: 2, conversationsPurged: 1, consumersPurged: 1 },
    });
    await older(knex, "archive", "finished_at", 8 * DAY);
    await older(knex, "dead_letters", "failed_at", 2 * DAY);
    await older(knex, "dedupe", "expires_at", DAY);
    const { lag } = await queue.getQueueStats();
    expect(lag.archiveMs).toBeGreaterThanOrEqual(DAY);
    expect(lag.deadLettersMs).toBeGreaterThanOrEqual(DAY);
    expect(lag.dedupeMs).toBeGreaterThan(0);
    expect(await queue.maintain()).toMatchObject({
      ...{ archivePurged: 1, deadLettersPurged: 1, dedupePurged: 1 },
      lag: { archiveMs: 0, deadLettersMs: 0, dedupeMs: 0, inboxMs: 0, conversationsMs: 0 },
    });
    for (const table of ["archive", "dead_letters", "dedupe"])
      expect(await rows(knex, table)).toBe(0);
    expect(await rows(knex, "inbox")).toBe(1);
    expect(await rows(knex, "conversations")).toBe(1);
  });

  it("keeps dead letters where they have no retention", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessage(note("a"));
    await (await queue.getMessages("a"))[0]?.deadLetter("no use");
    await older(knex, "dead_letters", "failed_at", 1_000 * DAY);
    expect(await queue.maintain()).toMatchObject({
      deadLettersPurged: 0,
      lag: { deadLettersMs: 0 },
    });
    expect(await rows(knex, "dead_letters")).toBe(1);
  });

  it("takes bounded steps, and says when there is more", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const old = Array.from({ length: 700 }, (_, n) => ({
      ...{ dedupe_key: `k${n}`, message_id: "m", expires_at: 1 },
    }));
    for (let n = 0; n < old.length; n += 100) {
      await knex("outbox_dedupe").insert(old.slice(n, n + 100));
    }
    expect(await queue.maintain()).toMatchObject({ dedupePurged: 500, more: true });
    expect(await queue.maintain()).toMatchObject({ dedupePurged: 200, more: false });
  });

  it("opens keys that stand still because an outsider deleted their heads", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const [first] = await queue.sendMessages(
      [1, 2].map((n) => ({ ...note("a", { n }), orderingKey: "o" })),
    );
    const [shared] = await queue.sendMessages(
      [3, 4].map((n) => ({ ...note("a", { n }), concurrencyKey: "s" })),
    );
    await queue.sendMessages([5, 6].map((n) => ({ ...note("b", { n }), orderingKey: "fine" })));
    const [only] = await queue.sendMessages([{ ...note("c"), orderingKey: "alone" }]);
    expect((await queue.maintain()).keysRepaired).toBe(0);
    await knex("outbox_messages")
      .whereIn(
        "message_id",
        [first, shared, only].map((sent) => sent?.messageId ?? ""),
      )
      .del();
    expect(await queue.getMessages("a")).toEqual([]);
    expect((await queue.maintain()).keysRepaired).toBe(2);
    expect(numbers(await queue.getMessages("a")).sort()).toEqual([2, 4]);
    expect(await rows(knex, "keys", { to_agent: "c" })).toBe(0);
    expect(await queue.getQueueStats("b")).toMatchObject({ pending: 1, blocked: 1 });
    expect((await queue.maintain()).keysRepaired).toBe(0);
  });

  it("finds such a key among many, going on where the last step ended", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const keyed = (n: number) => ({
      ...note(`a${n % 3}`, { n }),
      orderingKey: `k${Math.floor(n / 2)}`,
    });
    await queue.sendMessages(Array.from({ length: 500 }, (_, n) => keyed(n)));
    const [head] = await queue.sendMessages([{ ...note("zz", { n: 1 }), orderingKey: "z" }]);
    await queue.sendMessage({ ...note("zz", { n: 2 }), orderingKey: "z" });
    await knex("outbox_messages").where({ message_id: head?.messageId }).del();
    expect(await queue.maintain()).toMatchObject({ keysRepaired: 0, more: true });
    expect((await allOf(queue)).keysRepaired).toBe(1);
    expect(numbers(await queue.getMessages("zz"))).toEqual([2]);
  });

  it("goes on with a key whose dead letter an outsider deleted", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.mailboxes.set("a", { onDeadLetter: "halt" });
    await queue.sendMessages([1, 2].map((n) => ({ ...note("a", { n }), orderingKey: "k" })));
    await (await queue.getMessages("a"))[0]?.deadLetter("no use");
    expect((await queue.maintain()).keysRepaired).toBe(0);
    expect(await queue.getMessages("a")).toEqual([]);
    await knex("outbox_dead_letters").del();
    expect((await queue.maintain()).keysRepaired).toBe(1);
    expect(numbers(await queue.getMessages("a"))).toEqual([2]);
  });

  it("blocks again what a concurrency key let through beyond its limit", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const shared = (n: number) => ({ ...note("a", { n }), concurrencyKey: "k" });
    await queue.sendMessages([shared(1), shared(2), shared(3)]);
    // As a sender does whose transaction was open when the limit was lowered.
    await knex("outbox_messages").where({ state: 2 }).update({ state: 0 });
    await queue.maintain();
    expect(numbers(await queue.getMessages("a"))).toEqual([1]);
  });

  it("forgets contexts whose turns were served, and the next turns are the same", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.mailboxes.set("a", { fair: true });
    const of = (contextId: string, n: number) => ({ ...note("a", { n }), contextId });
    await queue.sendMessages([of("x", 1), of("y", 2), of("y", 3)]);
    expect((await queue.maintain()).turnsForgotten).toBe(0);
    await queue.ackMessages(await queue.getMessages("a", { limit: 2 }));
    // The first turn is over: that of x, but not the second of y.
    expect((await queue.maintain()).turnsForgotten).toBe(1);
    expect(await rows(knex, "keys", { kind: "turn20" })).toBe(1);
    await queue.sendMessages([of("y", 4), of("x", 5)]);
    expect(numbers(await queue.getMessages("a"))).toEqual([3, 5, 4]);
    await queue.mailboxes.set("a", { fair: null });
    await allOf(queue);
    expect(await rows(knex, "keys", { kind: "turn20" })).toBe(0);
  });

  it("frees slots of messages that are gone, and no others", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("few", { agentId: "a", maxInFlight: 3 });
    await queue.sendMessages([note("a"), note("a")]);
    const [one, two] = await queue.getMessages("a");
    await one?.ack();
    const seq = two?.sequence;
    await knex("outbox_slots").insert([
      { name: "nobody's", seq: 1_000_000, receipt: 1 },
      // Of one that counts as long as it lives, in whatever hands.
      { name: "w", seq, receipt: WHILE_IT_LIVES },
      { name: "w", seq: 1_000_000, receipt: WHILE_IT_LIVES },
    ]);
    expect(await rows(knex, "slots")).toBe(5);
    expect((await queue.maintain()).slotsFreed).toBe(3);
    const left = (await knex("outbox_slots").orderBy("name")) as { name: string; seq: unknown }[];
    expect(left.map((slot) => [slot.name, Number(slot.seq)])).toEqual([
      ["few", seq],
      ["w", seq],
    ]);
  });

  it("forgets limits removed a day ago, and lets go of their lane and gate", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("slow", { agentId: "a", messageType: "NOTE", maxInFlight: 1 });
    await queue.limits.set("other", { agentId: "b", messageType: "NOTE", maxInFlight: 1 });
    await queue.sendMessages([note("a"), note("a"), note("b")]);
    expect(await queue.limits.remove("slow")).toBe(true);
    expect((await queue.maintain()).limitsForgotten).toBe(0);
    await older(knex, "limits", "removed_at", DAY);
    expect((await allOf(queue)).limitsForgotten).toBe(1);
    expect(await knex("outbox_limits").select("name")).toEqual([{ name: "other" }]);
    expect(await rows(knex, "messages", { lane: "NOTE" })).toBe(1);
    expect(await knex("outbox_mailboxes").where({ agent_id: "a" }).first()).toMatchObject({
      gated: 0,
    });
    expect(await queue.getMessages("a")).toHaveLength(2);
  });

  it("leads claims back to limits that they pass by, because an outsider deleted the mailbox", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("few", { agentId: "a", maxInFlight: 1 });
    await queue.limits.set("all", { maxInFlight: 5 });
    await knex("outbox_mailboxes").del();
    expect((await queue.maintain()).failed).toEqual([]);
    expect(await rows(knex, "mailboxes", { gated: 1 })).toBe(2);
    await queue.sendMessages([note("a"), note("a")]);
    expect(await queue.getMessages("a")).toHaveLength(1);
  });

  it("leaves a lane to the limits that still need it", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("all", { messageType: "NOTE", maxInFlight: 9 });
    await queue.limits.set("b", { agentId: "b", messageType: "NOTE", maxInFlight: 1 });
    await queue.sendMessages([note("a"), note("b"), note("b")]);
    await queue.limits.remove("all");
    await older(knex, "limits", "removed_at", DAY);
    expect((await allOf(queue)).limitsForgotten).toBe(1);
    expect(await rows(knex, "messages", { lane: "NOTE", to_agent: "b" })).toBe(2);
    expect(await rows(knex, "messages", { lane: "", to_agent: "a" })).toBe(1);
    expect(await queue.getMessages("b")).toHaveLength(1);
    expect(await queue.getMessages("a")).toHaveLength(1);
  });

  it("a step that fails stops no other, and is told of once", async () => {
    const { knex } = await database.fresh();
    const { queue, events } = watched(knex);
    await queue.sendMessage({ ...note("a"), ttlMs: 1_000 });
    await elapse(knex, 5_000);
    await knex.schema.dropTable("outbox_inbox");
    const errors = () => events.filter(({ type }) => type === "error");
    const report = await queue.maintain();
    expect(report).toMatchObject({ expired: 1, more: false, lag: null });
    expect(report.failed).toMatchObject([{ step: "inbox", code: "NOT_MIGRATED" }]);
    expect(await rows(knex, "dead_letters")).toBe(1);
    await queue.maintain();
    expect(errors()).toHaveLength(1);
    expect(errors()[0]).toMatchObject({ errorType: "NOT_MIGRATED", data: { step: "inbox" } });
    await knex.schema.createTable("outbox_inbox", (table) => {
      for (const name of ["consumer", "from_agent", "message_id"]) table.string(name, 100);
      table.bigInteger("processed_at");
    });
    expect((await queue.maintain()).failed).toEqual([]);
    await knex.schema.dropTable("outbox_inbox");
    await queue.maintain();
    expect(errors()).toHaveLength(2);
  });

  it("ten at once do each thing once", async () => {
    const { knex, url } = await database.fresh();
    const { queue } = watched(knex, { deadLetterRetentionMs: DAY });
    await queue.mailboxes.set("f", { fair: true });
    const key = (n: number) => `k${n}`;
    const many = <T>(count: number, make: (n: number) => T) =>
      Array.from({ length: count }, (_, n) => make(n));
    await queue.sendMessages(many(60, (n) => ({ ...note("e", { n }), ttlMs: 1_000 })));
    await queue.sendMessages(
      many(30, (n) => ({ ...note("e", { n }), ttlMs: 1_000, orderingKey: key(n) })),
    );
    await queue.sendMessages(many(200, (n) => ({ ...note(`d${n % 7}`, { n }), delayMs: 1_000 })));
    await queue.sendMessages(
      many(20, (n) => ({ ...note("d0", { n }), delayMs: 1_000, concurrencyKey: key(n) })),
    );
    await queue.sendMessages(many(40, (n) => ({ ...note("k", { n }), orderingKey: key(n % 20) })));
    await queue.sendMessages(many(20, (n) => ({ ...note("f", { n }), contextId: key(n) })));
    await elapse(knex, 10_000);
    await queue.ackMessages(await queue.getMessages("f", { limit: 100 }));
    await knex("outbox_messages").where({ to_agent: "k", state: 0 }).del();
    await older(knex, "archive", "finished_at", 8 * DAY);
    const dedupe = many(300, (n) => ({ dedupe_key: key(n), message_id: "m", expires_at: 1 }));
    for (let n = 0; n < 300; n += 100) await knex("outbox_dedupe").insert(dedupe.slice(n, n + 100));
    const others = many(9, () => watched(knex).queue);
    const sums: Record<string, number> = {};
    for (const done of await Promise.all([queue, ...others].map(allOf))) {
      for (const [name, count] of Object.entries(done)) sums[name] = (sums[name] ?? 0) + count;
    }
    expect(url).toBeTruthy();
    expect(sums).toMatchObject({
      ...{
        expired: 90,
        archivePurged: 20,
        dedupePurged: 300,
        keysRepaired: 20,
        turnsForgotten: 20,
      },
    });
    // Told by each that saw it happen.
    expect(sums.promoted).toBeGreaterThanOrEqual(220);
    expect(await rows(knex, "messages", { state: 1 })).toBe(0);
    expect(await rows(knex, "messages", { state: 2 })).toBe(0);
    expect(await rows(knex, "messages", { state: 0 })).toBe(240);
    expect((await queue.getQueueStats()).lag).toMatchObject({
      expiredMs: 0,
      dueMs: 0,
      archiveMs: 0,
    });
  });

  it("is done by a worker that runs, also for mailboxes that it does not work", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessage({ ...note("elsewhere"), ttlMs: 1_000 });
    await elapse(knex, 5_000);
    const worker = queue.work(mailbox(), () => undefined);
    await until(async () => (await rows(knex, "dead_letters")) === 1);
    await worker.stop();
  });

  it("shows leases that have passed and schedules that were not fired", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessage(note("a"));
    await queue.getMessages("a", { leaseMs: 1_000 });
    await elapse(knex, 5_000);
    await queue.schedules.set("s", { everyMs: 60_000 }, note("b"));
    await older(knex, "schedules", "due_at", 70_000);
    const { lag } = await queue.getQueueStats();
    expect(lag.leaseMs).toBeGreaterThanOrEqual(4_000);
    expect(lag.schedulesMs).toBeGreaterThanOrEqual(9_000);
    expect((await queue.getQueueStats("a")).lag).toMatchObject({
      ...{ leaseMs: expect.any(Number), dueMs: 0, schedulesMs: null, archiveMs: null },
    });
  });

  it("fails where nothing can be done at all", async () => {
    const { knex } = await database.unmigrated();
    const { queue } = watched(knex);
    expect((await failure(() => queue.maintain())).code).toBe("NOT_MIGRATED");
  });
});
