import { expect, it, onTestFinished, vi } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { failure, mailbox, watched } from "../support/queue.ts";
import { elapseSchedules, scheduleName, sentDues } from "./schedules-support.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const tick = (toAgent: string, content: object = { n: 1 }) => ({
  toAgent,
  messageType: "TICK",
  content,
});

eachDatabase("schedules", (database) => {
  it("keep what they were told, and say when they are due next", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const name = scheduleName();
    const set = await queue.schedules.set(
      name,
      { cron: "0 9 * * MON-FRI", timeZone: "Europe/Rome" },
      { ...tick(to, { nested: { list: [1, "ä", null] } }), priority: "HIGH", ttlMs: HOUR },
    );
    expect(set).toMatchObject({
      ...{ outcome: "created", name, cron: "0 9 * * MON-FRI", timeZone: "Europe/Rome" },
      ...{ everyMs: null, catchUp: "latest", maxCatchUp: 100, startAt: null, endAt: null },
      ...{ runs: 0, skipped: 0, failures: 0, lastError: null, pausedAt: null },
      ...{ lastRunAt: null, lastFiredAt: null, lastMessageId: null },
    });
    expect(set.message).toEqual({
      ...tick(to, { nested: { list: [1, "ä", null] } }),
      ...{ fromAgent: "system", priority: "HIGH", ttlMs: HOUR },
    });
    expect(set.nextRunAt).toBeGreaterThan(set.createdAt);
    const { outcome: _, ...schedule } = set;
    expect(await queue.schedules.get(name)).toEqual(schedule);
    expect(await queue.schedules.list()).toContainEqual(schedule);
    const next = await queue.schedules.nextRuns(name, 10);
    expect(next).toHaveLength(10);
    expect(next[0]).toBe(set.nextRunAt);
    const clock = new Intl.DateTimeFormat("en-GB", {
      ...{ timeZone: "Europe/Rome", hour: "2-digit", minute: "2-digit", weekday: "short" },
    });
    for (const due of next) expect(clock.format(due)).toMatch(/^(Mon|Tue|Wed|Thu|Fri),? 09:00$/);
    expect(await queue.schedules.get("no-such")).toBeNull();
  });

  it("send a message per due time that says for which, once", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const name = scheduleName();
    const first = await queue.schedules.set(
      name,
      { everyMs: HOUR },
      { ...tick(to), headers: { tenant: "a" } },
    );
    expect((await queue.maintain()).schedulesFired).toBe(0);
    await elapseSchedules(database.knex(), HOUR, name);
    expect((await queue.maintain()).schedulesFired).toBe(1);
    expect((await queue.maintain()).schedulesFired).toBe(0);
    const [claim, ...more] = await queue.getMessages(to);
    const due = new Date((first.nextRunAt ?? 0) - HOUR).toISOString();
    expect(more).toEqual([]);
    expect(claim).toMatchObject({
      ...{ messageId: `${name}@${due}`, messageType: "TICK", fromAgent: "system" },
      ...{ content: { n: 1 }, headers: { tenant: "a", schedule: name, schedule_due_at: due } },
    });
    expect(named(`${name}@${due}`)).toEqual(["sent", "received"]);
    const after = await queue.schedules.get(name);
    expect(after).toMatchObject({
      ...{ runs: 1, skipped: 0, lastMessageId: `${name}@${due}` },
      ...{ lastRunAt: Date.parse(due), nextRunAt: Date.parse(due) + HOUR },
    });
    expect(after?.lastFiredAt).toBeGreaterThanOrEqual(Date.parse(due));
  });

  it("go by the database's clock alone", async () => {
    const { queue } = watched(database.knex());
    const name = scheduleName();
    const { nextRunAt, createdAt } = await queue.schedules.set(
      name,
      { everyMs: HOUR },
      tick(mailbox()),
    );
    expect(nextRunAt).toBe(createdAt + HOUR);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 24 * HOUR });
    onTestFinished(() => void vi.useRealTimers());
    expect((await queue.maintain()).schedulesFired).toBe(0);
    const again = await queue.schedules.set(scheduleName(), { everyMs: HOUR }, tick(mailbox()));
    expect((again.nextRunAt ?? 0) - (nextRunAt ?? 0)).toBeLessThan(10 * MINUTE);
    vi.setSystemTime(Date.now() - 48 * HOUR);
    await elapseSchedules(database.knex(), HOUR, name);
    expect((await queue.maintain()).schedulesFired).toBe(1);
  });

  it("set again as they are keep their next time, and change in what changes only", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const name = scheduleName();
    const set = (more = {}, trigger: { everyMs: number } = { everyMs: HOUR }, n = 1) =>
      queue.schedules.set(name, trigger, tick(to, { b: n, a: [1] }), more);
    const first = await set();
    await elapseSchedules(database.knex(), 10 * MINUTE, name);
    const nextRunAt = (first.nextRunAt ?? 0) - 10 * MINUTE;
    expect(await set()).toMatchObject({ outcome: "unchanged", nextRunAt });
    expect(
      await queue.schedules.set(name, { everyMs: HOUR }, tick(to, { a: [1], b: 1 })),
    ).toMatchObject({ outcome: "unchanged", updatedAt: first.updatedAt });
    expect(await set({}, { everyMs: HOUR }, 2)).toMatchObject({ outcome: "updated", nextRunAt });
    expect(await set({ catchUp: "all" }, { everyMs: HOUR }, 2)).toMatchObject({
      ...{ outcome: "updated", nextRunAt, catchUp: "all" },
    });
    const other = await set({ catchUp: "all" }, { everyMs: 2 * HOUR }, 2);
    expect(other).toMatchObject({ outcome: "updated", everyMs: 2 * HOUR });
    expect(other.nextRunAt).toBeGreaterThan(nextRunAt + HOUR);
    // A late one does not lose the due time that it owes.
    await elapseSchedules(database.knex(), 2 * HOUR, name);
    const late = (other.nextRunAt ?? 0) - 2 * HOUR;
    expect(await set({}, { everyMs: 2 * HOUR }, 3)).toMatchObject({ nextRunAt: late });
    expect((await queue.maintain()).schedulesFired).toBe(1);
    expect(await sentDues(database.knex(), to)).toEqual([late]);
  });

  it("set by many at once are one", async () => {
    const { queue } = watched(database.knex());
    const name = scheduleName();
    const to = mailbox();
    const all = await Promise.all(
      Array.from({ length: 6 }, () => queue.schedules.set(name, { everyMs: HOUR }, tick(to))),
    );
    expect(all.filter(({ outcome }) => outcome === "created")).toHaveLength(1);
    expect(all.filter(({ outcome }) => outcome === "unchanged")).toHaveLength(5);
    expect(new Set(all.map(({ nextRunAt }) => nextRunAt)).size).toBe(1);
  });

  it.each([
    ["latest", [5], 4],
    ["all", [1, 2, 3, 4, 5], 0],
    ["none", [], 5],
  ] as const)("that missed five times make up for them by %s", async (catchUp, nths, skipped) => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const name = scheduleName();
    const { nextRunAt } = await queue.schedules.set(name, { everyMs: HOUR }, tick(to), { catchUp });
    const missed = 5 * HOUR + 30 * MINUTE;
    await elapseSchedules(database.knex(), missed, name);
    const first = (nextRunAt ?? 0) - missed;
    expect((await queue.maintain()).schedulesFired).toBe(nths.length);
    expect(await sentDues(database.knex(), to)).toEqual(nths.map((n) => first + (n - 1) * HOUR));
    const schedule = await queue.schedules.get(name);
    expect(schedule).toMatchObject({ runs: nths.length, skipped, nextRunAt: first + 5 * HOUR });
    expect((await queue.maintain()).schedulesFired).toBe(0);
  });

  it("make up for no more than maxCatchUp, a bounded number at a time", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const name = scheduleName();
    const options = { catchUp: "all", maxCatchUp: 150 } as const;
    const { nextRunAt } = await queue.schedules.set(name, { everyMs: HOUR }, tick(to), options);
    const missed = 200 * HOUR + 30 * MINUTE;
    await elapseSchedules(database.knex(), missed, name);
    expect((await queue.maintain()).schedulesFired).toBe(100);
    expect((await queue.maintain()).schedulesFired).toBe(50);
    expect((await queue.maintain()).schedulesFired).toBe(0);
    const first = (nextRunAt ?? 0) - missed;
    expect(await sentDues(database.knex(), to)).toEqual(
      Array.from({ length: 150 }, (_, n) => first + (50 + n) * HOUR),
    );
    expect(await queue.schedules.get(name)).toMatchObject({ runs: 150, skipped: 50 });
  });

  it("fire nothing while they are paused, and make up for nothing after it", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const name = scheduleName();
    const set = await queue.schedules.set(name, { everyMs: HOUR }, tick(to), { catchUp: "all" });
    const paused = await queue.schedules.pause(name, { reason: "stocktaking" });
    expect(paused).toMatchObject({ pauseReason: "stocktaking", nextRunAt: null });
    expect(paused.pausedAt).toBeGreaterThan(0);
    expect(await queue.schedules.nextRuns(name, 1)).toEqual([set.nextRunAt]);
    await elapseSchedules(database.knex(), 3 * HOUR + MINUTE, name);
    expect((await queue.maintain()).schedulesFired).toBe(0);
    // Setting it again, as an application does when it starts, does not end a pause.
    const again = await queue.schedules.set(name, { everyMs: HOUR }, tick(to), { catchUp: "all" });
    expect(again).toMatchObject({ outcome: "unchanged", pauseReason: "stocktaking" });
    const nextRunAt = (set.nextRunAt ?? 0) - MINUTE;
    expect(await queue.schedules.resume(name)).toMatchObject({
      ...{ pausedAt: null, pauseReason: null, nextRunAt, skipped: 0 },
    });
    expect(await queue.schedules.resume(name)).toMatchObject({ nextRunAt });
    expect((await queue.maintain()).schedulesFired).toBe(0);
    await elapseSchedules(database.knex(), HOUR, name);
    expect((await queue.maintain()).schedulesFired).toBe(1);
    const options = { catchUp: "all", paused: true } as const;
    const off = await queue.schedules.set(name, { everyMs: HOUR }, tick(to), options);
    expect(off).toMatchObject({ outcome: "updated", nextRunAt: null });
    await elapseSchedules(database.knex(), 2 * HOUR, name);
    const on = await queue.schedules.set(name, { everyMs: HOUR }, tick(to), {
      ...options,
      paused: false,
    });
    expect(on.nextRunAt).toBeGreaterThan(on.updatedAt);
  });

  it("begin and end when they are told to", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const name = scheduleName();
    const [startAt, endAt] = [Date.now() + 10 * HOUR, Date.now() + 11 * HOUR];
    const set = await queue.schedules.set(name, { everyMs: 45 * MINUTE }, tick(to), {
      ...{ startAt: new Date(startAt), endAt, catchUp: "all" },
    });
    expect(set).toMatchObject({ startAt, endAt, nextRunAt: startAt });
    expect(await queue.schedules.nextRuns(name)).toEqual([startAt, startAt + 45 * MINUTE]);
    await elapseSchedules(database.knex(), 20 * HOUR, name);
    expect((await queue.maintain()).schedulesFired).toBe(2);
    expect(await queue.schedules.get(name)).toMatchObject({ nextRunAt: null, runs: 2 });
    expect(await queue.schedules.nextRuns(name)).toEqual([]);
    expect((await queue.maintain()).schedulesFired).toBe(0);
  });

  it("that cannot be sent hold up no other, say why, and are sent when the cause is gone", async () => {
    const knex = database.knex();
    const { queue } = watched(knex);
    const { queue: narrow, events } = watched(knex, { maxMessageBytes: 200 });
    const to = mailbox();
    const [big, small] = [scheduleName("a-big"), scheduleName("b-small")];
    const large = tick(to, { text: "x".repeat(500) });
    const set = await queue.schedules.set(big, { everyMs: HOUR }, large);
    await queue.schedules.set(small, { everyMs: HOUR }, tick(to));
    await elapseSchedules(knex, HOUR + 1_000, big);
    await elapseSchedules(knex, HOUR, small);
    expect((await narrow.maintain()).schedulesFired).toBe(1);
    const due = (set.nextRunAt ?? 0) - HOUR - 1_000;
    expect(await queue.schedules.get(big)).toMatchObject({
      ...{ runs: 0, failures: 1, nextRunAt: due },
      lastError: { code: "PAYLOAD_TOO_LARGE", message: expect.stringContaining("limit of 200") },
    });
    expect(events).toContainEqual(
      expect.objectContaining({ type: "error", errorType: "PAYLOAD_TOO_LARGE" }),
    );
    // It is left alone for a while, a little longer each time.
    expect((await narrow.maintain()).schedulesFired).toBe(0);
    await knex("outbox_schedules").where({ name: big }).update({ due_at: due });
    await narrow.maintain();
    expect(await queue.schedules.get(big)).toMatchObject({ failures: 2 });
    await knex("outbox_schedules").where({ name: big }).update({ due_at: due });
    expect((await queue.maintain()).schedulesFired).toBe(1);
    expect(await queue.schedules.get(big)).toMatchObject({
      ...{ failures: 0, lastError: null, lastRunAt: due, nextRunAt: due + HOUR },
    });
    expect((await sentDues(knex, to)).filter((at) => at === due)).toHaveLength(1);
  });

  it("never send a due time twice, even where their row was set back", async () => {
    const knex = database.knex();
    const { queue } = watched(knex);
    const to = mailbox();
    const name = scheduleName();
    const { nextRunAt } = await queue.schedules.set(name, { everyMs: HOUR }, tick(to));
    await elapseSchedules(knex, HOUR, name);
    await queue.maintain();
    const due = (nextRunAt ?? 0) - HOUR;
    await knex("outbox_schedules").where({ name }).update({ next_run_at: due, due_at: due });
    await queue.maintain();
    expect(await sentDues(knex, to)).toEqual([due]);
    expect(await queue.schedules.get(name)).toMatchObject({ nextRunAt: due + HOUR });
  });

  it("are set, paused and removed in the caller's transaction", async () => {
    const knex = database.knex();
    const { queue } = watched(knex);
    const name = scheduleName();
    const to = mailbox();
    await expect(
      knex.transaction(async (tx) => {
        await queue.schedules.set(name, { everyMs: HOUR }, tick(to), { tx });
        expect(await queue.schedules.get(name, { tx })).toMatchObject({ name });
        throw new Error("changed my mind");
      }),
    ).rejects.toThrow("changed my mind");
    expect(await queue.schedules.get(name)).toBeNull();
    await knex.transaction(async (tx) => {
      await queue.schedules.set(name, { everyMs: HOUR }, tick(to), { tx });
      await queue.schedules.pause(name, { tx });
      await queue.schedules.runNow(name, { tx });
    });
    expect(await queue.schedules.get(name)).toMatchObject({ pausedAt: expect.any(Number) });
    expect(await queue.getMessages(to)).toHaveLength(1);
    expect(await queue.schedules.remove(name)).toBe(true);
    expect(await queue.schedules.remove(name)).toBe(false);
    expect(await queue.schedules.get(name)).toBeNull();
  });

  it("run now without a change to their times", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const name = scheduleName();
    const { outcome: _, ...before } = await queue.schedules.set(
      name,
      { cron: "@yearly" },
      tick(to),
    );
    const [one, two] = [await queue.schedules.runNow(name), await queue.schedules.runNow(name)];
    expect(one).toMatchObject({ duplicate: false });
    expect(two.messageId).not.toBe(one.messageId);
    const claims = await queue.getMessages(to);
    expect(claims.map(({ messageId }) => messageId)).toEqual([one.messageId, two.messageId]);
    expect(claims[0]?.headers).toMatchObject({ schedule: name });
    expect(await queue.schedules.get(name)).toEqual(before);
  });

  it("are listed by name, page by page", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    for (const name of ["b", "a", "B", "c"]) {
      await queue.schedules.set(name, { everyMs: HOUR }, tick("x"));
    }
    const names = async (options = {}) =>
      (await queue.schedules.list(options)).map(({ name }) => name);
    expect(await names()).toEqual(["B", "a", "b", "c"]);
    expect(await names({ limit: 2 })).toEqual(["B", "a"]);
    expect(await names({ limit: 2, after: "a" })).toEqual(["b", "c"]);
  });

  it("refuse wrong input with a typed error, and store nothing", async () => {
    const { queue } = watched(database.knex(), { maxMessageBytes: 1_000 });
    const { schedules } = queue;
    const name = scheduleName();
    const ok = tick("x");
    const anyhow = schedules.set.bind(schedules) as (...given: unknown[]) => Promise<unknown>;
    const wrong: [() => Promise<unknown>, string, string?][] = [
      [() => anyhow("", { everyMs: HOUR }, ok), "name: "],
      [() => anyhow("a b", { everyMs: HOUR }, ok), "name: "],
      [() => anyhow("x".repeat(101), { everyMs: HOUR }, ok), "at most 100"],
      [() => anyhow(name, { cron: "0 25 * * *" }, ok), 'the hour "25"'],
      [() => anyhow(name, { cron: "@daily", timeZone: "Europe/Rom" }, ok), "no time zone"],
      [() => anyhow(name, { everyMs: 10 }, ok), "at least 1000 ms"],
      [() => anyhow(name, undefined, ok), "trigger"],
      [() => anyhow(name, { everyMs: HOUR }, undefined), "message: expected an object"],
      [() => anyhow(name, { everyMs: HOUR }, { ...ok, messageId: "m" }), "message.messageId"],
      [() => anyhow(name, { everyMs: HOUR }, { ...ok, delayMs: 5 }), "message.delayMs"],
      [() => anyhow(name, { everyMs: HOUR }, { ...ok, expiresAt: 5 }), "message.expiresAt"],
      [() => anyhow(name, { everyMs: HOUR }, { ...ok, toAgent: "" }), "message.toAgent"],
      [() => anyhow(name, { everyMs: HOUR }, { ...ok, wrong: 1 }), "wrong"],
      [() => anyhow(name, { everyMs: HOUR }, { ...ok, content: "text" }), "message.content"],
      [
        () => anyhow(name, { everyMs: HOUR }, tick("x", { text: "x".repeat(2_000) })),
        "limit of 1000",
        "PAYLOAD_TOO_LARGE",
      ],
      [() => anyhow(name, { everyMs: HOUR }, ok, { catchUp: "some" }), "options.catchUp"],
      [() => anyhow(name, { everyMs: HOUR }, ok, { maxCatchUp: 0 }), "options.maxCatchUp"],
      [() => anyhow(name, { everyMs: HOUR }, ok, { startAt: 5, endAt: 4 }), "options.endAt"],
      [() => anyhow(name, { everyMs: HOUR }, ok, null), "options"],
      [() => anyhow(name, { everyMs: HOUR }, ok, { tx: {} }), "tx", "FOREIGN_TRANSACTION"],
      [() => schedules.pause(name), `there is no schedule "${name}"`],
      [() => schedules.resume(name), "there is no schedule"],
      [() => schedules.runNow(name), "there is no schedule"],
      [() => schedules.nextRuns(name), "there is no schedule"],
      [() => schedules.nextRuns(name, 0), "count"],
      [() => schedules.list({ limit: 0 }), "options.limit"],
    ];
    for (const [call, said, code = "VALIDATION_FAILED"] of wrong) {
      expect(await failure(call), String(call)).toMatchObject({
        code,
        message: expect.stringContaining(said),
      });
    }
    expect(await schedules.get(name)).toBeNull();
  });
});
