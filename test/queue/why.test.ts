import type { Knex } from "knex";
import { expect, it } from "vitest";
import type { Explanation, MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, note, type Watched, watched } from "../support/queue.ts";

const ISO = "\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z";
const like = (text: string) => expect.stringMatching(new RegExp(text.replaceAll("ISO", ISO)));

async function why(queue: MessageQueueManager, messageId = ""): Promise<Explanation> {
  const [answer, ...others] = await queue.why(messageId);
  expect(others).toEqual([]);
  return answer as Explanation;
}

/** A mailbox "a" with a live consumer, so that none of the answers is about that. */
async function attended(knex: Knex, options = {}): Promise<Watched> {
  const made = watched(knex, options);
  await made.queue.getMessages("a", { workerId: "reader" });
  await until(async () => (await made.queue.consumers("a")).length === 1);
  return made;
}

eachDatabase("why", (database) => {
  const fresh = async () => {
    const { knex } = await database.fresh();
    return { knex, ...(await attended(knex)) };
  };

  it("ready: what is before it, and who is there to take it", async () => {
    const { queue } = await fresh();
    const sent = await queue.sendMessages([1, 2, 3].map((n) => note("a", { n })));
    expect(await why(queue, sent[0]?.messageId)).toMatchObject({
      ...{ state: "ready", also: [], until: null },
      reason: like("^ready since ISO; no consumer of a has claimed it; live consumers: reader$"),
    });
    expect((await why(queue, sent[2]?.messageId)).reason).toContain("; 2 are before it; live");
  });

  it("no live consumer, or none of this type", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const { messageId } = await queue.sendMessage(note("a"));
    expect(await why(queue, messageId)).toMatchObject({
      state: "ready",
      reason: like("ready since ISO.*; no consumer of a is live: none was seen within a day$"),
      remedy: "Start a worker for the mailbox a.",
    });
    await queue.getMessages("a", { messageTypes: ["OTHER"], workerId: "w1" });
    await until(async () => (await queue.consumers("a")).length === 1);
    expect((await why(queue, messageId)).reason).toMatch(
      /; no live consumer of a takes NOTE: the one there is takes only OTHER$/,
    );
    await knex("outbox_consumers").update({ seen_at: knex.raw("seen_at - 600000") });
    expect((await why(queue, messageId)).reason).toMatch(
      /; no consumer of a is live: the last, w1, was seen 10 min ago$/,
    );
  });

  it("paused, and what keeps it besides", async () => {
    const { queue } = await fresh();
    await queue.pause("a", { reason: "books are closed" });
    const { messageId } = await queue.sendMessage({ ...note("a"), delayMs: 60_000 });
    const answer = await why(queue, messageId);
    expect(answer).toMatchObject({
      state: "paused",
      reason: like("^the mailbox a is paused since ISO \\(books are closed\\)$"),
      remedy: "Run `agent-outbox resume a`.",
      until: null,
    });
    expect(answer.also).toEqual([like("^not due before ISO$")]);
  });

  it("scheduled, with the time; and all that there is besides, the decisive first", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("parked", { agentId: "a", rate: { amount: 1, perMs: 1_000 } });
    await queue.limits.park("parked", 600_000);
    const { messageId } = await queue.sendMessage({ ...note("a"), delayMs: 60_000 });
    const answer = await why(queue, messageId);
    expect(answer).toMatchObject({ state: "scheduled", reason: like("^not due before ISO$") });
    expect(answer.until).toBeGreaterThan(0);
    expect(answer.also).toEqual([
      like("^over the limit parked: parked until ISO"),
      like("^no consumer of a is live"),
    ]);
  });

  it("blocked behind the head of its ordering key: which, its state and its lease", async () => {
    const { knex, queue } = await fresh();
    const sent = await queue.sendMessages(
      [1, 2, 3].map((n) => ({ ...note("a", { n }), orderingKey: "k" })),
    );
    const [head, , third] = sent.map(({ messageId }) => messageId);
    expect(await why(queue, third)).toMatchObject({
      state: "blocked",
      reason: like(
        `^behind the first of its ordering key k: ${head}, ready since ISO; 2 are before it$`,
      ),
      remedy: like(`agent-outbox why ${head}`),
    });
    const [claim] = await queue.getMessages("a", { workerId: "w7" });
    expect((await why(queue, third)).reason).toMatch(
      new RegExp(`k: ${head}, leased by w7 until ${ISO}; 2 are before it$`),
    );
    await elapse(knex, 60_000, head);
    expect((await why(queue, third)).reason).toContain(`${head}, whose lease by w7 passed at`);
    await queue.getMessages("a", { workerId: "w8" });
    expect(await claim?.nack(new Error("no"), { delayMs: 60_000 })).toBe("stale");
    expect((await why(queue, third)).reason).toContain("leased by w8");
    await queue.cancelMessage(String(head));
    const [second] = await queue.getMessages("a");
    await second?.nack(new Error("no"), { delayMs: 60_000 });
    expect((await why(queue, third)).reason).toMatch(
      new RegExp(`k: ${second?.messageId}, scheduled for ${ISO}; 1 is before it$`),
    );
  });

  it("behind a head that an outsider deleted", async () => {
    const { knex, queue } = await fresh();
    const sent = await queue.sendMessages(
      [1, 2, 3].map((n) => ({ ...note("a", { n }), orderingKey: "k" })),
    );
    await knex("outbox_messages").where({ message_id: sent[0]?.messageId }).del();
    for (const n of [1, 2]) {
      expect(await why(queue, sent[n]?.messageId)).toMatchObject({
        state: "blocked",
        reason: like("an outsider deleted the one before it"),
        remedy: like("agent-outbox maintain"),
      });
    }
    await queue.maintain();
    expect(await why(queue, sent[1]?.messageId)).toMatchObject({ state: "ready" });
  });

  it("halted by a dead letter: which, and how to go on; the dead letter says so too", async () => {
    const { queue } = await fresh();
    await queue.mailboxes.set("a", { onDeadLetter: "halt" });
    const sent = await queue.sendMessages(
      [1, 2, 3].map((n) => ({ ...note("a", { n }), orderingKey: "k" })),
    );
    const [head, , third] = sent.map(({ messageId }) => messageId);
    await (await queue.getMessages("a"))[0]?.deadLetter("rejected");
    expect(await why(queue, third)).toMatchObject({
      state: "halted",
      reason: like(
        `^its ordering key k is halted since ISO by the dead letter ${head} \\(rejected\\); 1 is before it$`,
      ),
      remedy: like(`dlq redrive ${head}.*agent-outbox keys resume a k`),
    });
    expect(await why(queue, head)).toMatchObject({
      state: "dead",
      also: [like("^it halts the ordering key k since ISO: .*agent-outbox keys resume a k")],
    });
    await queue.orderingKeys.resume("a", "k");
    expect(await why(queue, third)).toMatchObject({ state: "blocked" });
    expect(await why(queue, head)).toMatchObject({ state: "dead", also: [] });
  });

  it("waiting for room of its concurrency key: how many, and who has it", async () => {
    const { knex, queue } = await fresh();
    const sent = await queue.sendMessages(
      [1, 2, 3].map((n) => ({ ...note("a", { n }), concurrencyKey: "k" })),
    );
    const [first, , third] = sent.map(({ messageId }) => messageId);
    await queue.getMessages("a", { workerId: "w7" });
    expect(await why(queue, third)).toMatchObject({
      state: "blocked",
      reason: like(
        `^waits for room of its concurrency key k: 1 of at most 1 ready or in flight \\(${first}, leased by w7 until ISO\\)$`,
      ),
      remedy: like("mailboxes set a --key-limit N"),
    });
    await queue.mailboxes.set("a", { keyLimit: 2 });
    expect((await why(queue, third)).reason).toContain("2 of at most 2");
    // Due again, but others have the room.
    const [late] = await queue.sendMessages([
      { ...note("a"), concurrencyKey: "k", delayMs: 60_000 },
    ]);
    await elapse(knex, 60_001, late?.messageId);
    expect(await why(queue, late?.messageId)).toMatchObject({
      state: "blocked",
      reason: like("2 of at most 2"),
    });
    await knex("outbox_messages").where({ message_id: first }).del();
    expect(await why(queue, third)).toMatchObject({
      state: "blocked",
      reason: like("k has room \\(1 of at most 2 in flight\\), but it was not let through yet$"),
    });
  });

  it("the breaker: open until, half open with which message, and who is before it", async () => {
    const { knex, queue } = await fresh();
    const breaker = { failureThreshold: 1, recoveryTimeoutMs: 60_000 };
    await queue.mailboxes.set("a", { breaker });
    const sent = await queue.sendMessages([1, 2, 3].map((n) => note("a", { n })));
    const [first, , third] = sent.map(({ messageId }) => messageId);
    const [claim] = await queue.getMessages("a", { limit: 1 });
    await claim?.nack(new Error("down"), { delayMs: 0 });
    const open = await why(queue, third);
    expect(open).toMatchObject({
      state: "circuit_open",
      reason: like("^the circuit breaker of a is open until ISO; then one message is let through"),
      remedy: like("mailboxes set a --no-breaker"),
    });
    expect(open.until).toBeGreaterThan(0);
    await knex("outbox_mailboxes").update({ breaker_until: knex.raw("breaker_until - 60000") });
    expect(await why(queue, first)).toMatchObject({ state: "ready", also: [] });
    expect(await why(queue, third)).toMatchObject({
      state: "circuit_open",
      reason: like(
        `is half open: it lets one message through to try, and ${first} is before this one$`,
      ),
    });
    await queue.getMessages("a", { workerId: "w7" });
    expect(await why(queue, third)).toMatchObject({
      state: "circuit_open",
      reason: like(`is half open: ${first}, leased by w7 until ISO is tried first$`),
      until: null,
    });
  });

  it("over a limit: how many are in flight, and whose", async () => {
    const { queue } = await fresh();
    await queue.limits.set("two", { agentId: "a", maxInFlight: 2 });
    await queue.limits.set("elsewhere", { agentId: "b", maxInFlight: 1 });
    const sent = await queue.sendMessages([1, 2, 3].map((n) => note("a", { n })));
    expect(await why(queue, sent[2]?.messageId)).toMatchObject({ state: "ready" });
    await queue.getMessages("a", { workerId: "w7" });
    const answer = await why(queue, sent[2]?.messageId);
    expect(answer).toMatchObject({
      state: "limited",
      reason: like(
        "^over the limit two: 2 of at most 2 in flight \\(.*leased by w7 until ISO; .*\\)$",
      ),
      remedy: like("agent-outbox limits set two"),
      until: null,
    });
    for (const { messageId } of sent.slice(0, 2)) expect(answer.reason).toContain(messageId);
  });

  it("over a limit: the bucket, until when, and who waits for it before", async () => {
    const { knex, queue } = await fresh();
    await queue.limits.set("tokens", {
      ...{ agentId: "a", messageType: "NOTE" },
      rate: { amount: 60, perMs: 600_000, burst: 10 },
    });
    const sent = await queue.sendMessages(
      [8, 6, 1].map((cost) => ({ ...note("a", { cost }), cost })),
    );
    await queue.getMessages("a", { limit: 1 });
    const now = Number((await knex("outbox_limits").first()).refilled_at);
    const second = await why(queue, sent[1]?.messageId);
    expect(second).toMatchObject({
      state: "limited",
      reason: like(
        "^over the limit tokens: its bucket holds \\d(\\.\\d+)? of 10, and this message costs 6, enough at ISO$",
      ),
    });
    expect(second.until).toBeGreaterThan(now + 30_000);
    expect(second.until).toBeLessThan(now + 45_000);
    expect(await why(queue, sent[2]?.messageId)).toMatchObject({
      state: "limited",
      reason: like(`and message ${sent[1]?.messageId} before this one costs 6, enough at ISO$`),
    });
    await queue.limits.park("tokens", 600_000);
    const parked = await why(queue, sent[1]?.messageId);
    expect(parked).toMatchObject({
      state: "limited",
      reason: like("^over the limit tokens: parked until ISO"),
    });
    expect(parked.until).toBeGreaterThan(now + 500_000);
    await queue.limits.remove("tokens");
    expect(await why(queue, sent[1]?.messageId)).toMatchObject({ state: "ready" });
  });

  it("leased: by whom, until when; and when that has passed, whether there is a run left", async () => {
    const { knex, queue } = await fresh();
    const { messageId } = await queue.sendMessage({ ...note("a"), maxAttempts: 1 });
    await queue.getMessages("a", { workerId: "w7" });
    const leased = await why(queue, messageId);
    expect(leased).toMatchObject({
      state: "leased",
      reason: like("^leased by w7 until ISO, run 1 of 1$"),
      also: [],
    });
    expect(leased.until).toBeGreaterThan(0);
    await elapse(knex, 60_000);
    expect(await why(queue, messageId)).toMatchObject({
      state: "ready",
      reason: like(
        "^ready again: the lease of w7 passed at ISO.*the next claim moves it to the dead",
      ),
    });
  });

  it("expired, also while it is paused", async () => {
    const { knex, queue } = await fresh();
    await queue.pause("a");
    const { messageId } = await queue.sendMessage({ ...note("a"), ttlMs: 1_000 });
    await elapse(knex, 2_000);
    expect(await why(queue, messageId)).toMatchObject({
      state: "expired",
      reason: like("^expired at ISO; it moves to the dead letters"),
      also: [like("^the mailbox a is paused since ISO$")],
    });
  });

  it("dead, archived, cancelled and never seen", async () => {
    const { queue } = await fresh();
    const sent = await queue.sendMessages([1, 2, 3].map((n) => note("a", { n })));
    const [dead, done] = await queue.getMessages("a", { limit: 2, workerId: "w7" });
    await dead?.nack(new Error("no paper"), { retry: false });
    await done?.ack();
    await queue.cancelMessage(String(sent[2]?.messageId));
    expect(await why(queue, dead?.messageId)).toMatchObject({
      state: "dead",
      reason: like(
        "^dead-lettered at ISO with reason \\w+ after 1 of 3 runs; run 1 .*on w7.*no paper$",
      ),
      failures: [{ attempt: 1, worker: "w7" }],
    });
    expect(await why(queue, done?.messageId)).toMatchObject({
      state: "processed",
      reason: like("^processed at ISO by w7 in run 1$"),
    });
    expect(await why(queue, sent[2]?.messageId)).toMatchObject({ state: "cancelled" });
    expect(await why(queue, "nobody")).toMatchObject({ state: "unknown", toAgent: null, also: [] });
  });
});
