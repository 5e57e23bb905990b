import { setTimeout as sleep } from "node:timers/promises";
import type { Knex } from "knex";
import { expect, it, onTestFinished } from "vitest";
import { type Lock, LockLost, type Outbox, openOutbox } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure } from "../support/queue.ts";

/** As if the database's clock had gone on by `ms`, for one lock. */
async function pass(knex: Knex, resourceId: string, ms: number): Promise<void> {
  await knex("outbox_locks")
    .where({ resource_id: resourceId })
    .update({ expires_at: knex.raw("expires_at - ?", [ms]) });
}

eachDatabase("locks", (database) => {
  async function opened(): Promise<Outbox> {
    const outbox = await openOutbox({ database: database.url() });
    onTestFinished(() => outbox.close());
    return outbox;
  }
  const had = (lock: Lock | null) => lock as Lock;

  it("have one owner, and tokens that grow with each", async () => {
    const { locks } = await opened();
    const first = had(await locks.acquire("one", { ownerId: "a", metadata: { why: "test" } }));
    expect(first).toMatchObject({ resourceId: "one", ownerId: "a", metadata: { why: "test" } });
    expect(first.expiresAt - first.lockedAt).toBe(60_000);
    expect(await locks.acquire("one", { ownerId: "b" })).toBeNull();
    // Not reentrant.
    expect(await locks.acquire("one", { ownerId: "a" })).toBeNull();
    expect(await locks.get("one")).toEqual(first);
    expect(await locks.release(first)).toBe("released");
    expect(await locks.release(first)).toBe("stale");
    expect(await locks.get("one")).toBeNull();
    const second = had(await locks.acquire("one", { ownerId: "b" }));
    expect(second.fencingToken).toBeGreaterThan(first.fencingToken);
    expect(second.metadata).toBeNull();
  });

  it("are taken over when they expire, and then the old owner can do nothing", async () => {
    const { locks, knex } = await opened();
    const first = had(await locks.acquire("over", { ownerId: "a", ttlMs: 30_000 }));
    await pass(knex, "over", 30_001);
    expect(await locks.get("over")).toBeNull();
    expect((await failure(() => locks.renew(first))).code).toBe("LOCK_LOST");
    const second = had(await locks.acquire("over", { ownerId: "b" }));
    expect(second.fencingToken).toBe(first.fencingToken + 1);
    expect((await failure(() => locks.renew(first))).code).toBe("LOCK_LOST");
    expect(await locks.release(first)).toBe("stale");
    const refused = await failure(() => knex.transaction((tx) => locks.assertHeld(first, { tx })));
    expect(refused).toBeInstanceOf(LockLost);
    expect(await locks.get("over")).toEqual(second);
  });

  it("never give a token twice, also after their rows were purged", async () => {
    const { locks, knex } = await opened();
    let last = 0;
    for (let n = 0; n < 3; n++) {
      const lock = had(await locks.acquire("purged"));
      expect(lock.fencingToken).toBeGreaterThan(last);
      last = lock.fencingToken;
      await locks.release(lock);
    }
    expect(await locks.purge()).toBe(0);
    await pass(knex, "purged", 86_400_001);
    expect(await locks.purge()).toBe(1);
    expect(await knex("outbox_locks").where({ resource_id: "purged" })).toEqual([]);
    expect(had(await locks.acquire("purged")).fencingToken).toBeGreaterThan(last);
  });

  it("are renewed from now on", async () => {
    const { locks, knex } = await opened();
    const lock = had(await locks.acquire("renewed", { ttlMs: 30_000 }));
    await pass(knex, "renewed", 20_000);
    const renewed = await locks.renew(lock, 50_000);
    expect(renewed.expiresAt).toBeGreaterThan(lock.expiresAt);
    expect(renewed.fencingToken).toBe(lock.fencingToken);
  });

  it("come to one who waits as soon as they are released", async () => {
    const { locks } = await opened();
    const first = had(await locks.acquire("waited"));
    const waiting = locks.acquire("waited", { waitMs: 20_000 });
    await sleep(50);
    const began = performance.now();
    await locks.release(first);
    expect(had(await waiting).fencingToken).toBeGreaterThan(first.fencingToken);
    expect(performance.now() - began).toBeLessThan(5_000);
    const stop = new AbortController();
    const aborted = locks.acquire("waited", { waitMs: 60_000, signal: stop.signal });
    stop.abort(new Error("enough"));
    await expect(aborted).rejects.toThrow("enough");
    const before = performance.now();
    expect(await locks.acquire("waited", { waitMs: 100 })).toBeNull();
    expect(performance.now() - before).toBeGreaterThanOrEqual(95);
  });

  it("are taken together or not at all", async () => {
    const { locks } = await opened();
    const held = had(await locks.acquire("all-b"));
    expect(await locks.acquireAll(["all-c", "all-a", "all-b"])).toBeNull();
    expect(await locks.get("all-a")).toBeNull();
    const waiting = locks.acquireAll(["all-c", "all-a", "all-b", "all-a"], { waitMs: 20_000 });
    await locks.release(held);
    const all = (await waiting) ?? [];
    expect(all.map(({ resourceId }) => resourceId)).toEqual(["all-a", "all-b", "all-c"]);
    expect(await locks.acquire("all-c")).toBeNull();
  });

  it("taken together in any order by many never deadlock", async () => {
    const { locks } = await opened();
    const orders = [
      ["x", "y", "z"],
      ["z", "y", "x"],
      ["y", "z"],
      ["z", "x"],
    ];
    let inside = 0;
    await Promise.all(
      orders.map(async (order) => {
        for (let n = 0; n < 3; n++) {
          await locks.withLock(order, { waitMs: 60_000 }, async () => {
            if (order.includes("z")) expect(++inside).toBe(1);
            await sleep(5);
            if (order.includes("z")) inside--;
          });
        }
      }),
    );
    expect(
      await locks
        .list({ limit: 10 })
        .then((all) => all.filter(({ resourceId }) => "xyz".includes(resourceId))),
    ).toEqual([]);
  });

  it("fence the writes of their owner until its transaction ends", async () => {
    const { locks, knex } = await opened();
    // On SQLite one writer keeps all others out anyway.
    const lock = had(await locks.acquire("fenced", { ttlMs: 3_000 }));
    if (database.dialect === "sqlite") {
      await knex.transaction((tx) => locks.assertHeld(lock, { tx }));
      return;
    }
    await knex.transaction(async (tx) => {
      await locks.assertHeld(lock, { tx });
      await sleep(3_100);
      // Expired by now, and still nobody gets it, nor waits for this transaction.
      expect(await locks.acquire("fenced")).toBeNull();
    });
    expect(had(await locks.acquire("fenced")).fencingToken).toBe(lock.fencingToken + 1);
  });

  it("are renewed while the work under them goes on, and released after it", async () => {
    const { locks } = await opened();
    const token = await locks.withLock("worked", { ttlMs: 6_000 }, async (context) => {
      const before = (await locks.get("worked")) as Lock;
      const after = await until(async () => {
        const now = await locks.get("worked");
        return now !== null && now.expiresAt > before.expiresAt ? now : undefined;
      });
      expect(after.fencingToken).toBe(context.fencingToken);
      context.check();
      return context.fencingToken;
    });
    expect(await locks.get("worked")).toBeNull();
    expect(had(await locks.acquire("worked")).fencingToken).toBe(token + 1);
    const boom = locks.withLock("thrown", {}, () => {
      throw new Error("boom");
    });
    await expect(boom).rejects.toThrow("boom");
    expect(await locks.get("thrown")).toBeNull();
  });

  it("tell the work under them that they are lost", async () => {
    const { locks, knex } = await opened();
    const lost = await failure(() =>
      locks.withLock("taken", { ttlMs: 1_500 }, async ({ signal, tx }) => {
        await locks.forceRelease("taken");
        await until(() => signal.aborted);
        expect(signal.reason).toBeInstanceOf(LockLost);
        const refused = await failure(() => tx(async () => "written"));
        expect(refused.code).toBe("LOCK_LOST");
      }),
    );
    expect(lost.code).toBe("LOCK_LOST");
    const taken = await failure(async () => {
      await locks.acquire("busy");
      await locks.withLock("busy", {}, () => undefined);
    });
    expect(taken).toMatchObject({ code: "LOCK_TAKEN", details: { resourceId: "busy" } });
    expect(knex).toBeDefined();
  });

  it("show whoever holds them, until somebody takes them away", async () => {
    const { locks } = await opened();
    for (const name of ["ls-1", "ls-2", "ls-3"]) await locks.acquire(name, { ownerId: "lister" });
    const page = await locks.list({ ownerId: "lister", limit: 2 });
    expect(page.map(({ resourceId }) => resourceId)).toEqual(["ls-1", "ls-2"]);
    const rest = await locks.list({ ownerId: "lister", after: "ls-2" });
    expect(rest.map(({ resourceId }) => resourceId)).toEqual(["ls-3"]);
    expect(await locks.forceRelease("ls-1")).toMatchObject({ ownerId: "lister" });
    expect(await locks.forceRelease("ls-1")).toBeNull();
    expect((await failure(() => locks.acquire("with space"))).code).toBe("VALIDATION_FAILED");
    expect((await failure(() => locks.acquire("a", { ttlMs: 1 }))).code).toBe("VALIDATION_FAILED");
  });
});
