import type { Knex } from "knex";
import { expect, it } from "vitest";
import type { ClaimedMessage, MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

/** Statements that end claims, or make them longer, as the pool sees them. */
function endings(knex: Knex): () => number {
  let count = 0;
  knex.on("query", ({ sql }: { sql: string }) => {
    // SQL Server names the table behind what is done to it.
    if (/\b(update|delete|insert)\b/i.test(sql) && /outbox_(messages|dead)/i.test(sql)) count += 1;
  });
  return () => count;
}

const COUNT = 60;

eachDatabase("ends at the same time", (database) => {
  async function claimed(queue: MessageQueueManager, to: string): Promise<ClaimedMessage[]> {
    await queue.sendMessages(Array.from({ length: COUNT }, (_, n) => note(to, { n })));
    const claims = await queue.getMessages(to, { limit: COUNT });
    expect(claims).toHaveLength(COUNT);
    return claims;
  }

  const ways: [string, (claim: ClaimedMessage) => Promise<string>, string][] = [
    ["ack", (claim) => claim.ack(), "acked"],
    ["nack", (claim) => claim.nack(new Error("not now"), { delayMs: 60_000 }), "retried"],
    ["defer", (claim) => claim.defer(60_000), "deferred"],
    [
      "deadLetter",
      (claim) => claim.deadLetter("rejected", { error: new Error("no") }),
      "dead_lettered",
    ],
    ["extend", (claim) => claim.extend(60_000), "extended"],
  ];

  it.each(ways)("share statements: %s", TIMED, async (_, end, outcome) => {
    const { knex } = await database.fresh();
    const { queue, events } = watched(knex);
    const to = mailbox();
    const claims = await claimed(queue, to);
    const strangers = claims.splice(0, 2);
    for (const claim of strangers) await claim.ack();
    const before = events.length;
    const count = endings(knex);
    const outcomes = await Promise.all([...strangers, ...claims].map(end));
    expect(outcomes).toEqual([...strangers.map(() => "gone"), ...claims.map(() => outcome)]);
    expect(count()).toBeGreaterThan(0);
    expect(count()).toBeLessThan(12);
    // Observers hear of each, as of one that ended alone.
    const told = outcome === "extended" ? 0 : claims.length;
    expect(events.slice(before).filter((it) => it.type === "message")).toHaveLength(told);
  });

  it("tell whoever ends a message for the second time that it is gone", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const claims = await claimed(queue, to);
    const twice = await Promise.all([...claims, ...claims].map((claim) => claim.ack()));
    expect(twice.slice(0, COUNT)).toEqual(claims.map(() => "acked"));
    expect(twice.slice(COUNT)).toEqual(claims.map(() => "gone"));
    expect(named(String(claims[0]?.messageId))).toEqual(["sent", "received", "processed"]);
  });

  it("never share a caller's transaction", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    const [inside, ...others] = await claimed(queue, to);
    const tx = await knex.transaction();
    expect(await inside?.ack({ tx })).toBe("acked");
    // SQLite has one connection: what is outside waits for the transaction there.
    const outside = Promise.all(others.map((claim) => claim.ack()));
    await tx.rollback();
    expect(new Set(await outside)).toEqual(new Set(["acked"]));
    expect(await inside?.ack()).toBe("acked");
  });

  it("are written down before a queue is closed", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const claims = await claimed(queue, mailbox());
    const acked = claims.map((claim) => claim.ack());
    await new Promise((resolve) => setImmediate(resolve));
    await queue.close();
    expect(new Set(await Promise.all(acked))).toEqual(new Set(["acked"]));
  });

  it("of handlers that throw are few statements, with each its own error", TIMED, async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    await queue.sendMessages(
      Array.from({ length: COUNT }, (_, n) => ({ ...note(to, { n }), maxAttempts: 1 + (n % 2) })),
    );
    const count = endings(knex);
    const worker = queue.work(
      to,
      async ({ content }) => {
        throw new Error(`no ${(content as { n: number }).n}`);
      },
      { concurrency: COUNT, retryPolicy: { initialDelayMs: 60_000 } },
    );
    await until(() => worker.stats.failed === COUNT);
    await worker.stop();
    // Claims among them, and upkeep.
    expect(count()).toBeLessThan(30);
    const dead = await queue.deadLetters.list({ agentId: to });
    expect(dead.map(({ lastError }) => lastError?.message).sort()).toEqual(
      Array.from({ length: COUNT / 2 }, (_, n) => `no ${2 * n}`).sort(),
    );
    const rows = (await knex("outbox_messages").where({ to_agent: to })) as { state: number }[];
    expect(rows.map(({ state }) => Number(state))).toEqual(new Array(COUNT / 2).fill(1));
  });
});
