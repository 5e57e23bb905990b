import { expect, it, onTestFinished } from "vitest";
import { type Outbox, openOutbox, type StoredEvent } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";

const event = (n: number) => ({ eventType: "counted", data: { n } });
const sum = (state: { total: number }, { data }: StoredEvent) => ({
  total: state.total + (data as { n: number }).n,
});

eachDatabase("the event store", (database) => {
  async function opened(): Promise<Outbox> {
    const outbox = await openOutbox({ database: database.url() });
    onTestFinished(() => outbox.close());
    return outbox;
  }

  it("stores events and sends what they say in one commit", async () => {
    const { eventStore, queue, knex } = await opened();
    const appended = await eventStore.append("inc-1", [event(1), event(2)], {
      expectedVersion: "none",
      aggregateType: "incident",
      agentId: "detector",
      publish: ({ eventType, version }) => ({
        toAgent: "reader-1",
        messageType: "EVENT",
        content: { eventType, version },
      }),
    });
    expect(appended).toMatchObject({ version: 2, duplicate: false });
    expect(appended.events.map(({ version }) => version)).toEqual([1, 2]);
    expect(await queue.getMessages("reader-1", { limit: 10 })).toHaveLength(2);
    const boom = knex.transaction(async (tx) => {
      await eventStore.append("inc-1", [event(3)], {
        tx,
        publish: { toAgent: "reader-1", messageType: "EVENT", content: {} },
      });
      throw new Error("boom");
    });
    await expect(boom).rejects.toThrow("boom");
    expect(await eventStore.version("inc-1")).toBe(2);
    expect(await queue.getMessages("reader-1", { limit: 10 })).toHaveLength(0);
    expect(await eventStore.load("inc-1", { fromVersion: 2 })).toMatchObject([
      {
        eventType: "counted",
        data: { n: 2 },
        aggregateType: "incident",
        agentId: "detector",
        version: 2,
      },
    ]);
  });

  it("refuses what was decided on an older version, and tells the current one", async () => {
    const { eventStore } = await opened();
    await eventStore.append("versioned", [event(1)], { expectedVersion: "none" });
    const late = await failure(() =>
      eventStore.append("versioned", [event(2)], { expectedVersion: "none" }),
    );
    expect(late).toMatchObject({ code: "VERSION_CONFLICT", details: { currentVersion: 1 } });
    await eventStore.append("versioned", [event(2)], { expectedVersion: 1 });
    const racing = await Promise.allSettled(
      Array.from({ length: 6 }, () =>
        eventStore.append("versioned", [event(3)], { expectedVersion: 2 }),
      ),
    );
    expect(racing.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  });

  it("stores an event id once", async () => {
    const { eventStore } = await opened();
    const same = [{ eventId: "once-1", ...event(1) }];
    await eventStore.append("once", same, { expectedVersion: "none" });
    const again = await eventStore.append("once", same, { expectedVersion: "none" });
    expect(again).toMatchObject({ duplicate: true, version: 1 });
    const other = await failure(() => eventStore.append("other", same));
    expect(other.code).toBe("ALREADY_EXISTS");
    const twice = await failure(() => eventStore.append("once", [...same, ...same]));
    expect(twice.code).toBe("VALIDATION_FAILED");
  });

  it("gives versions without gaps when many append at once", async () => {
    const { eventStore } = await opened();
    await Promise.all(
      Array.from({ length: 12 }, (_, n) => eventStore.append("busy", [event(n), event(n)])),
    );
    const versions = (await eventStore.load("busy")).map(({ version }) => version);
    expect(versions).toEqual(Array.from({ length: 24 }, (_, n) => n + 1));
  });

  it("lets readers miss none that commits late", async () => {
    const { url, knex } = await database.fresh();
    const outbox = await openOutbox({ database: url });
    onTestFinished(() => outbox.close());
    const { eventStore } = outbox;
    if (database.dialect === "sqlite") {
      // One writer at a time: nothing can commit in between.
      await eventStore.append("late", [event(1)]);
      expect((await eventStore.readAll()).map(({ position }) => position)).toEqual([1]);
      return;
    }
    const tx = await outbox.knex.transaction();
    await eventStore.append("late", [event(1)], { tx });
    // Made later, committed earlier.
    await eventStore.append("early", [event(2)]);
    const first = await eventStore.readAll();
    expect(first.map(({ aggregateId }) => aggregateId)).toEqual(["early"]);
    await tx.commit();
    const last = first.at(-1)?.position ?? 0;
    const rest = await eventStore.readAll({ after: last });
    expect(rest.map(({ aggregateId }) => aggregateId)).toEqual(["late"]);
    expect(rest[0]?.position).toBe(last + 1);
    expect(knex).toBeDefined();
  });

  it("reads all by position and type, by many readers at once", async () => {
    const { url } = await database.fresh();
    const outbox = await openOutbox({ database: url });
    onTestFinished(() => outbox.close());
    const { eventStore } = outbox;
    for (let n = 0; n < 4; n++) {
      await eventStore.append(`read-${n}`, [
        { eventType: n % 2 === 0 ? "even" : "odd", data: { n } },
        { eventType: "all", data: { n } },
      ]);
    }
    const reads = await Promise.all([1, 2, 3].map(() => eventStore.readAll()));
    for (const read of reads) {
      expect(read.map(({ position }) => position)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    }
    const some = await eventStore.readAll({ types: ["even", "odd"], limit: 3, after: 1 });
    expect(some.map(({ position }) => position)).toEqual([3, 5, 7]);
  });

  it("makes a state of events, and keeps it", async () => {
    const { eventStore, knex } = await opened();
    await eventStore.append("sum", [event(1), event(2), event(3)]);
    const options = { snapshot: { schemaVersion: 2, every: 3 } };
    const initial = { total: 0 };
    expect(await eventStore.project("sum", sum, initial, options)).toEqual({
      state: { total: 6 },
      version: 3,
    });
    await eventStore.append("sum", [event(4)]);
    const seen: number[] = [];
    const counted = await eventStore.project(
      "sum",
      (state: { total: number }, one) => {
        seen.push(one.version);
        return sum(state, one);
      },
      initial,
      options,
    );
    expect(counted).toEqual({ state: { total: 10 }, version: 4 });
    expect(seen).toEqual([4]);
    // A reducer of another version reads from the first event on.
    const older = { snapshot: { schemaVersion: 1, every: 100 } };
    expect((await eventStore.project("sum", sum, initial, older)).state.total).toBe(10);
    expect(await knex("outbox_snapshots").where({ aggregate_id: "sum" })).toHaveLength(1);
    expect(await eventStore.project("nothing", sum, initial)).toEqual({
      state: initial,
      version: 0,
    });
  });

  it("hands events to a follower, each once in what it writes", async () => {
    const { url } = await database.fresh();
    const outbox = await openOutbox({ database: url });
    onTestFinished(() => outbox.close());
    const { eventStore, knex } = outbox;
    await knex.schema.createTable("seen", (table) => void table.integer("position"));
    await eventStore.append("followed", [event(1), event(2), event(3)]);
    const stop = new AbortController();
    let failed = 0;
    const errors: unknown[] = [];
    const follower = () =>
      eventStore.follow(
        "counter",
        async (events, { tx }) => {
          for (const { position } of events) await tx("seen").insert({ position });
          if (failed++ === 0) throw new Error("once more");
          const [row] = await tx("seen").count({ n: "*" });
          if (Number((row as { n: unknown }).n) >= 4) stop.abort();
        },
        { signal: stop.signal, batch: 2, intervalMs: 20 },
        (error) => errors.push(error),
      );
    const running = Promise.all([follower(), follower()]);
    await eventStore.append("followed", [event(4)]);
    await running;
    const rows = (await knex("seen").orderBy("position")) as { position: number }[];
    expect(rows.map(({ position }) => position)).toEqual([1, 2, 3, 4]);
    expect(errors).toHaveLength(1);
  });
});
