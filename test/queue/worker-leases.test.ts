import type { Knex } from "knex";
import { expect, it, onTestFinished } from "vitest";
import { connect, LeaseLost, type MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";
import { aborted, content, gate } from "./worker-support.ts";

eachDatabase("a worker's leases", (database) => {
  /** Somebody else gets the message, as if its lease had passed. */
  async function steal(queue: MessageQueueManager, to: string, messageId: string) {
    return until(async () => {
      await elapse(database.knex(), 3_600_000, messageId);
      const [stolen] = await queue.getMessages(to, { leaseMs: 60_000 });
      return stolen;
    });
  }

  /** Takes the only connection until the transaction ends: no extension gets through. */
  async function silenced(knex: Knex): Promise<Knex.Transaction> {
    const held = await knex.transaction();
    onTestFinished(async () => {
      if (!held.isCompleted()) await held.rollback();
    });
    return held;
  }

  it("G6: are made longer for as long as a handler runs", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const open = gate();
    // Four times what it takes to make it longer: a machine busy with other things is late by seconds.
    const leaseMs = 4_000;
    const worker = queue.work(to, () => open.passed, { leaseMs, workerId: "first" });
    await until(() => worker.stats.active === 1);
    const since = performance.now();
    while (performance.now() - since < 1.5 * leaseMs) {
      expect(await queue.getMessages(to, { waitMs: 100 })).toEqual([]);
    }
    open.pass();
    await until(() => worker.stats.processed === 1);
    expect(await queue.getMessage(messageId)).toMatchObject({
      state: "processed",
      attempt: 1,
      workerId: "first",
    });
  });

  it("G3: abort the handler when someone else has the message, and its result is thrown away", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const reasons: unknown[] = [];
    const worker = queue.work(
      to,
      async (message, { signal, tx, progress }) => {
        await aborted(signal).catch((reason) => reasons.push(reason));
        reasons.push(await failure(() => progress(1)));
        reasons.push(await failure(() => tx(() => undefined)));
        reasons.push(await message.ack());
      },
      { leaseMs: 6_000, pollMs: { min: 20_000, max: 20_000 } },
    );
    await until(() => worker.stats.active === 1);
    const stolen = await steal(queue, to, messageId);
    await until(() => worker.stats.lost === 1);
    const [reason, fromProgress, fromTx, fromAck] = reasons;
    for (const error of [reason, fromProgress, fromTx]) expect(error).toBeInstanceOf(LeaseLost);
    expect(fromAck).toBe("stale");
    expect(worker.stats).toMatchObject({ processed: 0, failed: 0, lost: 1 });
    expect(await stolen.ack()).toBe("acked");
  });

  it("abort the handler of a message that was cancelled", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const worker = queue.work(to, (_, { signal }) => aborted(signal), { leaseMs: 3_000 });
    await until(() => worker.stats.active === 1);
    expect(await queue.cancelMessage(messageId)).toBe(true);
    await until(() => worker.stats.lost === 1);
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "cancelled" });
  });

  it("abort the handler when they may have passed unheard, because the database does not answer", async () => {
    const { knex } = connect(database.url(), { poolMax: 1 });
    onTestFinished(() => knex.destroy());
    const { queue } = watched(knex);
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const attempts: number[] = [];
    const reasons: unknown[] = [];
    const since = performance.now();
    const worker = queue.work(
      to,
      async (message, { signal }) => {
        if (attempts.push(message.attempt) > 1) return;
        await aborted(signal).catch((reason) => reasons.push(reason));
        throw signal.reason;
      },
      { leaseMs: 500, onError: () => {} },
    );
    await until(() => worker.stats.active === 1);
    const held = await silenced(knex);
    await until(() => reasons.length === 1);
    // Not before the lease of 500 ms is about to end; it counts from the moment when the claim was sent.
    expect(performance.now() - since).toBeGreaterThan(400);
    expect(reasons[0]).toBeInstanceOf(LeaseLost);
    await held.rollback();
    // The run is not held against the message.
    await until(() => worker.stats.processed === 1);
    expect(attempts).toEqual([1, 1]);
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed", attempt: 1 });
  });

  it("count a run as lost whose message was cancelled while its lease passed unheard", async () => {
    const { knex } = connect(database.url(), { poolMax: 1 });
    onTestFinished(() => knex.destroy());
    const { queue } = watched(knex);
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const reasons: unknown[] = [];
    const worker = queue.work(
      to,
      async (_, { signal }) => {
        await aborted(signal).catch((reason) => reasons.push(reason));
        throw signal.reason;
      },
      { leaseMs: 3_000, onError: () => {} },
    );
    await until(() => worker.stats.active === 1);
    const held = await silenced(knex);
    await until(() => reasons.length === 1);
    expect(await queue.cancelMessage(messageId, { tx: held })).toBe(true);
    await held.commit();
    await until(() => worker.stats.lost === 1);
    expect(worker.stats).toMatchObject({ processed: 0, failed: 0, released: 0 });
  });

  it("end an earlier run of a message that this worker is handed out again", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const open = gate();
    const worker = queue.work(
      to,
      (message, { signal }) => (message.attempt === 1 ? aborted(signal) : open.passed),
      { concurrency: 2 },
    );
    await until(() => worker.stats.active === 1);
    await elapse(database.knex(), 3_600_000, messageId);
    await until(() => worker.stats.lost === 1 && worker.stats.active === 1);
    open.pass();
    await until(() => worker.stats.processed === 1);
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed", attempt: 2 });
  });

  it("carry progress from a run that died to the next one", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const seen: unknown[] = [];
    const worker = queue.work(
      to,
      async (message, { progress }) => {
        seen.push(message.progress);
        if (message.attempt === 1) {
          await progress({ step: 1 });
          await progress({ step: 2, rows: ["a"] });
          expect(await queue.getMessage(messageId)).toMatchObject({ progress: { step: 2 } });
          for (const bad of [{ text: "\0" }, { text: "\ud800" }, { n: Number.NaN }]) {
            expect((await failure(() => progress(bad))).code).toBe("VALIDATION_FAILED");
          }
          throw new Error("died");
        }
        if (message.attempt === 2) {
          await progress("half");
          throw new Error("died again");
        }
      },
      { retryPolicy: { strategy: "fixed", initialDelayMs: 0 } },
    );
    await until(() => worker.stats.processed === 1);
    expect(seen).toEqual([null, { step: 2, rows: ["a"] }, { value: "half" }]);
  });

  it("stand while a transaction of the handler takes longer than they do", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages([note(to, { long: true }), note(to, { long: false })]);
    const inside = gate();
    const leaseMs = 3_000;
    const worker = queue.work(
      to,
      async (message, { tx, progress, signal }) => {
        if (content(message).long !== true) return;
        await tx(async () => {
          // Must not wait for a connection: SQLite has one, and this transaction holds it.
          await progress({ inside: true });
          inside.pass();
          await new Promise((resolve) => setTimeout(resolve, 1.5 * leaseMs));
        });
        expect(signal.aborted).toBe(false);
      },
      { concurrency: 2, leaseMs, onError: () => {} },
    );
    await inside.passed;
    await until(() => worker.stats.processed === 2);
    expect(worker.stats).toMatchObject({ failed: 0, lost: 0 });
  });

  it("G7: what a handler writes in the acknowledging transaction exists exactly once", async () => {
    const { knex } = await database.fresh();
    await knex.schema.createTable("effects", (table) => {
      table.string("message_id", 128);
      table.integer("attempt");
    });
    const { queue } = watched(knex);
    const [to, from] = [mailbox(), mailbox()];
    const kinds = ["plain", "throws in tx", "throws after", "stolen"];
    const sent = await queue.sendMessages(
      kinds.map((kind) => ({ ...note(to, { kind }), fromAgent: from })),
    );
    const errors: unknown[] = [];
    const worker = queue.work(
      to,
      async (message, { tx }) => {
        const { kind } = content(message);
        const first = message.attempt === 1;
        if (first && kind === "stolen") {
          await knex("outbox_messages")
            .where({ message_id: message.messageId })
            .increment("receipt", 1);
        }
        try {
          await tx(async (trx) => {
            await trx("effects").insert({
              message_id: message.messageId,
              attempt: message.attempt,
            });
            await message.reply({ ok: kind as string }, { tx: trx });
            if (first && kind === "throws in tx") throw new Error("undone");
          });
        } catch (error) {
          errors.push([kind, (error as Error).name]);
          if (kind === "stolen") {
            // The thief ends without settling it.
            await knex("outbox_messages")
              .where({ message_id: message.messageId })
              .update({ visible_at: 0 });
          }
          throw error;
        }
        if (kind === "throws after") throw new Error("too late to matter");
      },
      { retryPolicy: { strategy: "fixed", initialDelayMs: 0 } },
    );
    await until(() => worker.stats.processed === 4);
    const effects = await knex("effects").select("message_id", "attempt").orderBy("attempt");
    expect(effects.map((row) => row.message_id).sort()).toEqual(
      sent.map(({ messageId }) => messageId).sort(),
    );
    expect(errors).toEqual([
      ["throws in tx", "Error"],
      ["stolen", "LeaseLost"],
    ]);
    const replies = await queue.getMessages(from);
    expect(replies.map((reply) => content(reply).ok).sort()).toEqual([...kinds].sort());
    expect(worker.stats).toMatchObject({ processed: 4, failed: 1, lost: 1 });
  });
});
