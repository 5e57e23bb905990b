import { expect, it } from "vitest";
import type { DeadLetterFilterInput } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";
import { bulkDead, deadWith } from "./dead-letters-support.ts";

eachDatabase("groups of dead letters", (database) => {
  it("put failures of one cause together, the most frequent first", async () => {
    const { queue } = watched(database.knex());
    const [a, b] = [mailbox("groups"), mailbox("groups")];
    const fromAgent = mailbox("sender");
    const options = { fromAgent };
    await deadWith(queue, a, new Error('no row 17 in "orders"'), options);
    await deadWith(queue, a, new Error('no row 18 in "invoices"'), options);
    const newest = await deadWith(queue, b, new Error("no row 19 in 'x'"), options);
    const odd = await deadWith(queue, b, new RangeError("too far"), {
      ...options,
      reason: "schema",
    });
    const { groups, capped } = await queue.deadLetters.groups({ fromAgent });
    const letters = await queue.deadLetters.list({ fromAgent });
    const at = letters.map(({ failedAt }) => failedAt);
    expect(capped).toBe(false);
    expect(groups).toEqual([
      {
        fingerprint: letters[0]?.fingerprint,
        count: 3,
        reason: "rejected",
        messageType: letters[0]?.messageType,
        errorCode: "Error",
        errorMessage: "no row 19 in 'x'",
        newestMessageId: newest,
        mailboxes: [
          { agentId: a, count: 2 },
          { agentId: b, count: 1 },
        ],
        earliestFailedAt: at[0],
        latestFailedAt: at[2],
      },
      expect.objectContaining({ count: 1, reason: "schema", newestMessageId: odd }),
    ]);
    const one = await queue.deadLetters.groups({ fromAgent }, { limit: 1 });
    expect(one.groups).toEqual(groups.slice(0, 1));
    const ofB = await queue.deadLetters.groups({ agentId: b, fromAgent });
    expect(ofB.groups.map(({ count }) => count)).toEqual([1, 1]);
    const some = await queue.deadLetters.groups({ fromAgent, errorCode: "RangeError" });
    expect(some.groups.map(({ newestMessageId }) => newestMessageId)).toEqual([odd]);
    expect(await queue.deadLetters.groups({ agentId: mailbox() })).toEqual({
      groups: [],
      capped: false,
    });
    const wrong = await failure(() => queue.deadLetters.groups({}, { limit: 0 }));
    expect(wrong.code).toBe("VALIDATION_FAILED");
  });

  it("count the newest 10,000 and say that there are more", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("groups");
    await deadWith(queue, to, new Error("older than the newest 10,000"));
    await bulkDead(queue, database, to, 9_999);
    const all = await queue.deadLetters.groups({ agentId: to });
    expect([all.capped, ...all.groups.map(({ count }) => count)]).toEqual([false, 9_999, 1]);
    await bulkDead(queue, database, to, 1);
    const capped = await queue.deadLetters.groups({ agentId: to });
    expect([capped.capped, ...capped.groups.map(({ count }) => count)]).toEqual([true, 10_000]);
  });
});

eachDatabase("the filter of dead letters", (database) => {
  it("takes every condition, and all of them together", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("filter");
    const first = await deadWith(queue, to, new Error("Connection 100% refused"), {
      fromAgent: "ada",
      messageType: "ORDER",
    });
    const second = await deadWith(queue, to, new RangeError("too [far]"), { reason: "schema" });
    const moved = database.knex()("outbox_dead_letters").where({ message_id: first });
    await moved.update({ failed_at: 1_000, created_at: 500 });
    const [letter] = await queue.deadLetters.list({ messageIds: [first] });
    const found = async (filter: DeadLetterFilterInput) =>
      (await queue.deadLetters.list({ agentId: to, ...filter })).map(({ messageId }) => messageId);
    const only: [DeadLetterFilterInput, string[]][] = [
      [{}, [first, second]],
      [{ messageIds: [second, "never-seen"] }, [second]],
      [{ fromAgent: "ada" }, [first]],
      [{ reason: "schema" }, [second]],
      [{ messageType: String(letter?.messageType) }, [first]],
      [{ fingerprint: String(letter?.fingerprint) }, [first]],
      [{ errorCode: "RangeError" }, [second]],
      [{ errorCode: "rangeerror" }, []],
      [{ errorText: "connection" }, [first]],
      [{ errorText: "100% REF" }, [first]],
      [{ errorText: "100_" }, []],
      [{ errorText: "[far]" }, [second]],
      [{ errorText: "%" }, [first]],
      [{ failedBefore: 1_000 }, []],
      [{ failedBefore: 1_001 }, [first]],
      [{ failedAfter: 1_000 }, [first, second]],
      [{ failedAfter: 1_001 }, [second]],
      [{ createdBefore: 501 }, [first]],
      [{ createdAfter: new Date(501) }, [second]],
      [{ fromAgent: "ada", failedBefore: 1_001, errorText: "refused" }, [first]],
      [{ fromAgent: "ada", reason: "schema" }, []],
    ];
    for (const [filter, ids] of only) {
      expect(await found(filter), JSON.stringify(filter)).toEqual(ids);
    }
  });

  it("finds the few among thousands, a window at a time", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("filter");
    const first = await deadWith(queue, to, new Error("the needle"));
    const bulk = await bulkDead(queue, database, to, 2_300);
    const last = await deadWith(queue, to, new Error("a NEEDLE too"));
    const filter = { agentId: to, errorText: "needle" };
    const statements: string[] = [];
    const listen = ({ sql }: { sql: string }) => statements.push(sql);
    database.knex().on("query", listen);
    const letters = await queue.deadLetters.list(filter);
    database.knex().removeListener("query", listen);
    expect(letters.map(({ messageId }) => messageId)).toEqual([first, last]);
    // Two to begin with, three windows of two, two that fetch what was found.
    expect(statements.length).toBeLessThanOrEqual(12);
    const page = await queue.deadLetters.list({ agentId: to, reason: "expired", limit: 1_000 });
    expect(page.map(({ messageId }) => messageId)).toEqual(bulk.slice(0, 1_000));
    const afterSeq = Number(page.at(-1)?.sequence);
    const next = await queue.deadLetters.list({
      agentId: to,
      reason: "expired",
      limit: 500,
      afterSeq,
    });
    expect(next.map(({ messageId }) => messageId)).toEqual(bulk.slice(1_000, 1_500));
    const dry = await queue.deadLetters.redrive(
      { agentId: to, reason: "expired" },
      { dryRun: true, limit: 5_000 },
    );
    expect(dry.matched).toBe(2_300);
    expect((await queue.deadLetters.redrive(filter)).messageIds).toEqual([first, last]);
  });

  it("by id finds every recipient's letter", async () => {
    const { queue } = watched(database.knex());
    const both = [mailbox("filter"), mailbox("filter")];
    const { messageId } = await queue.sendMessage({ ...note("x"), toAgent: both });
    for (const to of both) await (await queue.getMessages(to))[0]?.deadLetter("rejected");
    const result = await queue.deadLetters.redrive({ messageIds: [messageId] });
    expect(result).toMatchObject({ redriven: 2, messageIds: [messageId, messageId] });
  });
});
