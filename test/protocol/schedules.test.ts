import { assert as check, constantFrom, integer, property, tuple } from "fast-check";
import { describe, expect, it } from "vitest";
import { lastCrons } from "../../lib/protocol/cron.ts";
import {
  type CatchUp,
  checkedTrigger,
  dueAfter,
  firing,
  firstDue,
  preview,
  type Timing,
} from "../../lib/protocol/schedules.ts";
import { TIMED } from "../support/timed.ts";

const at = (iso: string) => Date.parse(iso);
const iso = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString().slice(0, 16));
const cron = (expression: string, timeZone = "UTC", more: Partial<Timing> = {}): Timing => ({
  ...{ cron: expression, timeZone, everyMs: null, startAt: null, endAt: null },
  ...more,
});
const every = (everyMs: number, more: Partial<Timing> = {}): Timing => ({
  ...{ cron: null, timeZone: null, everyMs, startAt: null, endAt: null },
  ...more,
});
const next = (timing: Timing, from: string, count: number) =>
  preview(timing, 0, at(from), count).map(iso);

describe("a cron expression", () => {
  it.each([
    ["0 9 * * MON-FRI", "2026-11-20T09:00Z", ["2026-11-23T09:00", "2026-11-24T09:00"]],
    ["*/20 8 * * *", "2026-11-20T00:00Z", ["2026-11-20T08:00", "2026-11-20T08:20"]],
    ["0 0 L * *", "2026-02-01T00:00Z", ["2026-02-28T00:00", "2026-03-31T00:00"]],
    ["0 0 29 2 *", "2026-01-01T00:00Z", ["2028-02-29T00:00", "2032-02-29T00:00"]],
    ["0 9 1 * MON", "2026-11-28T00:00Z", ["2026-11-30T09:00", "2026-12-01T09:00"]],
    ["@daily", "2026-11-20T12:00Z", ["2026-11-21T00:00", "2026-11-22T00:00"]],
    ["30 0 12 * * *", "2026-11-20T12:00Z", ["2026-11-20T12:00", "2026-11-21T12:00"]],
  ])("%s after %s is due at %j", (expression, from, dues) => {
    expect(next(cron(expression), from, 2)).toEqual(dues);
  });

  it("means the clock of its zone, before and after a change", () => {
    expect(next(cron("0 9 * * *", "Europe/Rome"), "2026-03-27T12:00Z", 3)).toEqual([
      "2026-03-28T08:00",
      "2026-03-29T07:00",
      "2026-03-30T07:00",
    ]);
    expect(next(cron("0 9 * * *", "America/New_York"), "2026-10-31T00:00Z", 2)).toEqual([
      "2026-10-31T13:00",
      "2026-11-01T14:00",
    ]);
  });

  it.each([
    // Rome goes from 02:00 to 03:00 (01:00 UTC), New York likewise (07:00 UTC).
    ["30 2 * * *", "Europe/Rome", "2026-03-28T12:00Z", ["2026-03-29T01:00", "2026-03-30T00:30"]],
    [
      "30 2 * * *",
      "America/New_York",
      "2026-03-07T12:00Z",
      ["2026-03-08T07:00", "2026-03-09T06:30"],
    ],
    ["15,45 2 * * *", "Europe/Rome", "2026-03-28T12:00Z", ["2026-03-29T01:00", "2026-03-30T00:15"]],
    ["0 2,14 * * *", "Europe/Rome", "2026-03-28T20:00Z", ["2026-03-29T01:00", "2026-03-29T12:00"]],
  ])(
    "%s in %s is due once, right after the gap, where its time is skipped",
    (...[expression, zone, from, dues]) => {
      expect(next(cron(expression, zone), from, 2)).toEqual(dues);
    },
  );

  it.each([
    // Rome goes back from 03:00 to 02:00 (01:00 UTC), New York from 02:00 to 01:00 (06:00 UTC).
    ["30 2 * * *", "Europe/Rome", "2026-10-24T12:00Z", ["2026-10-25T00:30", "2026-10-26T01:30"]],
    [
      "30 1 * * *",
      "America/New_York",
      "2026-10-31T12:00Z",
      ["2026-11-01T05:30", "2026-11-02T06:30"],
    ],
  ])(
    "%s in %s is due once, the first time, where its time comes twice",
    (...[expression, zone, from, dues]) => {
      expect(next(cron(expression, zone), from, 2)).toEqual(dues);
      // Also for one who asks between the two.
      expect(next(cron(expression, zone), `${dues[0]}:30Z`, 1)).toEqual([dues[1]]);
    },
  );

  it("with a star or a step follows the clock on the wall: nothing in a gap, twice what comes twice", () => {
    expect(next(cron("0 * * * *", "Europe/Rome"), "2026-03-29T00:00Z", 2)).toEqual([
      "2026-03-29T01:00",
      "2026-03-29T02:00",
    ]);
    expect(next(cron("*/30 2 * * *", "Europe/Rome"), "2026-03-28T12:00Z", 1)).toEqual([
      "2026-03-30T00:00",
    ]);
    expect(next(cron("*/30 1 * * *", "America/New_York"), "2026-11-01T00:00Z", 5)).toEqual([
      "2026-11-01T05:00",
      "2026-11-01T05:30",
      "2026-11-01T06:00",
      "2026-11-01T06:30",
      "2026-11-02T06:00",
    ]);
  });

  it("looks back as it looks ahead, through every change of clocks", async () => {
    const zones = ["Europe/Rome", "America/New_York", "Australia/Lord_Howe", "America/Santiago"];
    const around = ["2026-03-06", "2026-03-27", "2026-04-02", "2026-09-04", "2026-10-23"];
    const minutes = ["0", "30", "*/15", "10-50/20", "0,59"];
    const hours = ["2", "*", "*/2", "0-4", "1,2,3", "23"];
    await check(
      property(
        tuple(
          constantFrom(...minutes),
          constantFrom(...hours),
          constantFrom("*", "SUN", "SAT,MON"),
        ),
        constantFrom(...zones),
        constantFrom(...around),
        integer({ min: 0, max: 4 * 24 * 60 }),
        ([minute, hour, day], zone, date, shift) => {
          const expression = `${minute} ${hour} * * ${day}`;
          const from = at(`${date}T00:00Z`) + shift * 60_000;
          const until = from + 2 * 86_400_000;
          const ahead: number[] = [];
          for (
            let due = dueAfter(cron(expression, zone), 0, from);
            due !== null && due <= until;
          ) {
            ahead.push(due);
            due = dueAfter(cron(expression, zone), 0, due);
          }
          const back = lastCrons(expression, zone, until, ahead.length + 1);
          expect(back.filter((due) => due > from)).toEqual(ahead);
        },
      ),
      { numRuns: 200 },
    );
  });

  it.each([
    ["61 * * * *", 'the minute "61" (field 1 of 5)', "0 to 59"],
    ["0 25 * * *", 'the hour "25" (field 2 of 5)', "0 to 23"],
    ["0 9 0 * *", 'the day of the month "0" (field 3 of 5)', "1 to 31"],
    ["0 9 * 13 *", 'the month "13" (field 4 of 5)', "JAN to DEC"],
    ["0 9 * * MON-FRX", 'the day of the week "MON-FRX" (field 5 of 5)', "MON-FRI"],
    ["0 0 9 * * 8", 'the day of the week "8" (field 6 of 6)', "SUN to SAT"],
    ["60 0 9 * * *", 'the second "60" (field 1 of 6)', "0 to 59"],
    ["0 5-1 * * *", 'the hour "5-1" (field 2 of 5)', "the smaller first"],
    ["*/0 * * * *", 'the minute "*/0" (field 1 of 5)', "steps"],
    ["* * * *", "expected five fields", "got 4"],
    ["0 9 * * * * 2030", "expected five fields", "got 7"],
    ["@every 5m", '"@every 5m" is none of', "@hourly"],
    ["0 0 30 FEB *", "is never due", "no such day"],
  ])("%s is refused: %s", (expression, ...said) => {
    for (const text of said) {
      expect(() => checkedTrigger({ cron: expression })).toThrow(
        expect.objectContaining({
          code: "VALIDATION_FAILED",
          message: expect.stringContaining(text),
        }),
      );
    }
  });
});

describe("a trigger", () => {
  it.each([
    ["Europe/Rom", "Did you mean Europe/Rome?"],
    ["rome", "Did you mean Europe/Rome?"],
    ["New York", "Did you mean America/New_York?"],
    ["+02:00", "such as Europe/Rome"],
    ["xyzzy", "such as Europe/Rome"],
  ])("in the zone %s is refused, and told what was meant", (timeZone, remedy) => {
    expect(() => checkedTrigger({ cron: "@daily", timeZone })).toThrow(
      expect.objectContaining({
        message: `trigger.timeZone: there is no time zone ${JSON.stringify(timeZone)}`,
        recoverySuggestion: expect.stringContaining(remedy),
      }),
    );
  });

  it.each([
    [{}, "give cron or everyMs"],
    [{ cron: "@daily", everyMs: 1_000 }, "give cron or everyMs"],
    [{ everyMs: 999 }, "at least 1000 ms"],
    [{ everyMs: 1.5 }, "whole"],
    [{ everyMs: 60_000, timeZone: "UTC" }, "give timeZone with cron only"],
    [{ cron: "" }, "expected a cron expression"],
    [{ corn: "@daily" }, "corn"],
    [null, "trigger"],
  ])("%j is refused: %s", (trigger, said) => {
    expect(() => checkedTrigger(trigger)).toThrow(said);
  });

  it("takes UTC where no zone is given", () => {
    expect(checkedTrigger({ cron: " @daily " })).toMatchObject({ cron: "@daily", timeZone: "UTC" });
    expect(checkedTrigger({ everyMs: 1_000 })).toMatchObject({ cron: null, timeZone: null });
  });
});

describe("the first due time", () => {
  const now = at("2026-11-20T10:00Z");
  it.each([
    [every(60_000), "2026-11-20T10:01"],
    [every(60_000, { startAt: at("2026-11-20T12:00Z") }), "2026-11-20T12:00"],
    [every(3_600_000, { startAt: at("2026-11-20T07:30Z") }), "2026-11-20T10:30"],
    [every(3_600_000, { endAt: at("2026-11-20T10:30Z") }), null],
    [cron("0 * * * *"), "2026-11-20T11:00"],
    [cron("0 * * * *", "UTC", { startAt: at("2026-11-21T03:00Z") }), "2026-11-21T03:00"],
    [cron("0 * * * *", "UTC", { startAt: at("2026-11-21T03:01Z") }), "2026-11-21T04:00"],
    [cron("0 * * * *", "UTC", { endAt: at("2026-11-20T11:00Z") }), "2026-11-20T11:00"],
    [cron("0 * * * *", "UTC", { endAt: at("2026-11-20T10:59Z") }), null],
  ])("of %j is %s", (timing, due) => {
    expect(iso(firstDue(timing, now))).toBe(due);
  });
});

describe("due times that were missed", () => {
  const due = at("2026-11-20T10:00Z");
  const minute = 60_000;
  const plan = (timing: Timing, catchUp: CatchUp, lateMs: number, maxCatchUp = 100) => {
    const {
      dues,
      skipped,
      next: then,
    } = firing(timing, { catchUp, maxCatchUp }, due, due + lateMs);
    return { dues: dues.map(iso), skipped, next: iso(then) };
  };

  it.each([
    ["an interval", every(minute)],
    ["a cron", cron("* * * * *")],
  ])("of %s are made up for as the policy says", (_, timing) => {
    const late = 3 * minute + 30_000;
    expect(plan(timing, "latest", late)).toEqual({
      ...{ dues: ["2026-11-20T10:03"], skipped: 3, next: "2026-11-20T10:04" },
    });
    expect(plan(timing, "none", late)).toEqual(plan(timing, "latest", late));
    expect(plan(timing, "all", late)).toEqual({
      dues: ["2026-11-20T10:00", "2026-11-20T10:01", "2026-11-20T10:02", "2026-11-20T10:03"],
      ...{ skipped: 0, next: "2026-11-20T10:04" },
    });
    expect(plan(timing, "all", late, 2)).toEqual({
      dues: ["2026-11-20T10:02", "2026-11-20T10:03"],
      ...{ skipped: 2, next: "2026-11-20T10:04" },
    });
    for (const policy of ["latest", "all", "none"] as const) {
      expect(plan(timing, policy, 0)).toEqual({
        ...{ dues: ["2026-11-20T10:00"], skipped: 0, next: "2026-11-20T10:01" },
      });
    }
  });

  it.each([
    ["an interval", every(60 * minute)],
    ["a cron", cron("0 * * * *")],
  ])("of %s are let go by none when they are a minute late", (_, timing) => {
    expect(plan(timing, "none", minute - 1).dues).toEqual(["2026-11-20T10:00"]);
    expect(plan(timing, "none", minute)).toEqual({
      ...{ dues: [], skipped: 1, next: "2026-11-20T11:00" },
    });
    expect(plan(timing, "none", 90 * minute)).toEqual({
      ...{ dues: [], skipped: 2, next: "2026-11-20T12:00" },
    });
  });

  it("are not looked for after the end", () => {
    const endAt = due + 2 * minute;
    for (const timing of [every(minute, { endAt }), cron("* * * * *", "UTC", { endAt })]) {
      expect(plan(timing, "latest", 60 * minute)).toEqual({
        ...{ dues: ["2026-11-20T10:02"], skipped: 2, next: null },
      });
    }
  });

  it("come a hundred at a time, the rest being due still", () => {
    for (const timing of [every(minute), cron("* * * * *")]) {
      const first = firing(timing, { catchUp: "all", maxCatchUp: 250 }, due, due + 999 * minute);
      expect(first.dues).toHaveLength(100);
      expect(first).toMatchObject({ skipped: 750, next: due + 850 * minute });
      const second = firing(
        timing,
        { catchUp: "all", maxCatchUp: 250 },
        first.next as number,
        due + 999 * minute,
      );
      expect(second.dues[0]).toBe(first.next);
      expect(second).toMatchObject({ skipped: 0, next: due + 950 * minute });
    }
  });

  it("cost the same after a year of every second as after a minute", TIMED, () => {
    const year = 365 * 86_400_000;
    for (const timing of [every(1_000), cron("* * * * * *", "Europe/Rome")]) {
      const began = performance.now();
      const done = firing(timing, { catchUp: "all", maxCatchUp: 100 }, due, due + year);
      expect(done).toMatchObject({ skipped: 1_000, next: due + year + 1_000 });
      expect(done.dues.at(-1)).toBe(due + year);
      expect(performance.now() - began).toBeLessThan(2_000);
    }
  });
});
