import { expect, it } from "vitest";
import { QueueFull } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";

const notes = (to: string, count: number, rest: object = {}) =>
  Array.from({ length: count }, (_, n) => ({ ...note(to, { n }), ...rest }));

const SPILL = { flow: { window: false, whenFull: "spill", spillMs: 60_000 } } as const;
const WAIT = { flow: { window: false, whenFull: "wait" } } as const;

eachDatabase("the depth of a mailbox", (database) => {
  /** A mailbox with room for so many, and a queue. */
  const limited = async (maxDepth: number, name = mailbox()) => {
    const { queue } = watched(database.knex());
    await queue.mailboxes.set(name, { maxDepth });
    return { queue, to: name };
  };

  it("counts what is ready, leased, blocked or due, and refuses what has no room", async () => {
    const { queue, to } = await limited(4);
    await queue.sendMessages(notes(to, 2, { orderingKey: "k" }));
    await queue.sendMessages(notes(to, 2));
    const error = await failure(() => queue.sendMessage(note(to)));
    expect(error).toBeInstanceOf(QueueFull);
    expect(error).toMatchObject({
      ...{ code: "QUEUE_FULL", retryable: true },
      details: { toAgent: to, maxDepth: 4, room: 0 },
    });
    const claims = await queue.getMessages(to);
    expect(claims).toHaveLength(3);
    await failure(() => queue.sendMessage(note(to)));
    await claims.at(-1)?.ack();
    await queue.sendMessage(note(to));
    await failure(() => queue.sendMessage(note(to)));
    // A failed one waits for its next run, and counts again once it is due.
    await claims.at(-2)?.nack(new Error("no"), { delayMs: 3_600_000 });
    await queue.sendMessage(note(to));
    await failure(() => queue.sendMessage(note(to)));
    await elapse(database.knex(), 3_600_000, claims.at(-2)?.messageId);
    const [one] = await queue.getMessages(to, { limit: 1 });
    await one?.ack();
    expect((await failure(() => queue.sendMessage(note(to)))).details).toMatchObject({ room: 0 });
  });

  it("does not count what is scheduled, and takes what is to come later in any case", async () => {
    const { queue, to } = await limited(2);
    await queue.sendMessages(notes(to, 10, { delayMs: 3_600_000 }));
    await queue.sendMessages(notes(to, 2));
    await queue.sendMessages(notes(to, 10, { availableAt: Date.now() + 3_600_000 }));
    await failure(() => queue.sendMessages(notes(to, 1, { availableAt: Date.now() - 3_600_000 })));
    await failure(() => queue.sendMessage(note(to)));
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 2, scheduled: 20 });
  });

  it("keeps room for what falls due while the last count holds", async () => {
    const { queue, to } = await limited(5);
    await queue.sendMessages(notes(to, 3, { delayMs: 400 }));
    await queue.sendMessage(note(to));
    // There is room for four now; the count that this send leaves behind says one.
    await queue.sendMessage(note(to));
    await elapse(database.knex(), 400);
    await failure(() => queue.sendMessage(note(to)));
    expect(await queue.getMessages(to)).toHaveLength(5);
  });

  it("spills what has no room, and counts it once it is due", async () => {
    const { queue, to } = await limited(3);
    const sent = await queue.sendMessages(notes(to, 5), SPILL);
    expect(sent.map(({ spilled = false }) => spilled)).toEqual([false, false, false, true, true]);
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 3, scheduled: 2 });
    await queue.ackMessages(await queue.getMessages(to));
    await elapse(database.knex(), 60_000);
    // Two are due: there is room for one.
    const more = await queue.sendMessages(notes(to, 2), SPILL);
    expect(more.map(({ spilled = false }) => spilled)).toEqual([false, true]);
    expect(await queue.getMessages(to)).toHaveLength(3);
  });

  it("lets a sender wait for room", async () => {
    const { queue, to } = await limited(2);
    await queue.sendMessages(notes(to, 2));
    const [claim] = await queue.getMessages(to, { limit: 1 });
    let stored = false;
    const waiting = queue.sendMessage(note(to), WAIT).then(() => {
      stored = true;
    });
    await until(async () => (await failure(() => queue.sendMessage(note(to)))).code);
    expect(stored).toBe(false);
    await claim?.ack();
    await waiting;
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 2 });
  });

  it("may change at any time, and goes for everybody who sends", async () => {
    const { queue, to } = await limited(1);
    await queue.sendMessage(note(to));
    await failure(() => queue.sendMessage(note(to), { flow: false }));
    await queue.mailboxes.set(to, { maxDepth: 3 });
    await queue.sendMessages(notes(to, 2));
    await failure(() => queue.sendMessage(note(to)));
    await queue.mailboxes.set(to, { maxDepth: null });
    await queue.sendMessages(notes(to, 20));
    expect((await queue.getQueueStats(to)).pending).toBe(23);
  });

  it("works together with a window: both must have room", async () => {
    const { queue, to } = await limited(3);
    const both = { flow: { window: 2, whenFull: "spill", spillMs: 60_000 } } as const;
    const sent = await queue.sendMessages(notes(to, 4, { fromAgent: "one" }), both);
    expect(sent.map(({ spilled = false }) => spilled)).toEqual([false, false, true, true]);
    const other = await queue.sendMessages(notes(to, 2, { fromAgent: "two" }), both);
    expect(other.map(({ spilled = false }) => spilled)).toEqual([false, true]);
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 3, scheduled: 3 });
  });

  it("G2: is not changed by what was rolled back", async () => {
    const { queue, to } = await limited(2);
    await failure(() =>
      database.knex().transaction(async (tx) => {
        await queue.sendMessages(notes(to, 2), { tx });
        expect((await failure(() => queue.sendMessage(note(to), { tx, ...WAIT }))).code).toBe(
          "QUEUE_FULL",
        );
        throw new Error("back");
      }),
    );
    await queue.sendMessages(notes(to, 2));
    await failure(() => queue.sendMessage(note(to)));
  });
});
