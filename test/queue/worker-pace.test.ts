import { expect, it } from "vitest";
import { Bell, backOffMs, Pace, settledWithin, within } from "../../lib/queue/worker/pace.ts";

it("looks again at once after a full batch, and ever more rarely while there is nothing", () => {
  const pace = new Pace({ min: 5, max: 1_000 });
  expect(pace.dueInMs(0)).toBe(0);
  pace.looking(0);
  pace.found(0, true);
  expect(pace.dueInMs(0)).toBe(0);
  pace.looking(0);
  pace.found(0, false);
  expect(pace.dueInMs(0)).toBe(5);
  for (let looks = 0; looks < 12; looks++) {
    pace.looking(0);
    pace.empty(0);
    expect(pace.dueInMs(0)).toBeGreaterThanOrEqual(5);
    expect(pace.dueInMs(0)).toBeLessThanOrEqual(Math.min(1_000, 5 * 2 ** looks));
  }
});

it("a wake-up ends the pause, also when it comes while a look is under way", () => {
  const pace = new Pace({ min: 5, max: 1_000 });
  pace.looking(0);
  pace.empty(0);
  expect(pace.dueInMs(0)).toBeGreaterThan(0);
  pace.wake();
  expect(pace.dueInMs(0)).toBe(0);
  pace.looking(0);
  pace.wake();
  pace.empty(0);
  expect(pace.dueInMs(0)).toBe(0);
});

/** A pace that has just handled one message that it was told of. */
function afterNews(): Pace {
  const pace = new Pace({ min: 5, max: 1_000 });
  pace.wake();
  pace.looking(0);
  pace.found(0, false, true);
  return pace;
}

it("rests after a message that it was told of, where it is told of every one", () => {
  const pace = afterNews();
  expect(pace.dueInMs(0)).toBe(5);
  expect(pace.idle).toBe(true);
  pace.looking(5);
  pace.rest(5, 4_000);
  expect(pace.dueInMs(5)).toBeGreaterThanOrEqual(4_000);
  pace.wake();
  expect(pace.dueInMs(5)).toBe(0);
  expect(pace.idle).toBe(false);
});

it("does not rest while messages come that nobody tells of one by one", () => {
  const unheard = new Pace({ min: 5, max: 1_000 });
  unheard.wake();
  unheard.looking(0);
  unheard.found(0, false, false);
  expect(unheard.idle).toBe(false);

  const many = afterNews();
  many.untold(0, 100);
  many.wake();
  many.looking(0);
  many.found(0, false, true);
  expect(many.idle).toBe(false);
  many.looking(150);
  many.empty(150, true);
  expect(many.idle).toBe(true);

  // A sender that never tells: found by looking.
  const silent = afterNews();
  silent.looking(5);
  silent.found(5, false, true);
  expect(silent.idle).toBe(false);
  silent.looking(20);
  silent.empty(20, true);
  expect(silent.idle).toBe(false);
  silent.wake();
  silent.looking(30_000);
  silent.found(30_000, false, true);
  expect(silent.idle).toBe(true);
});

it("is not surprised by the rest of a full batch, nor by what it knew to fall due", () => {
  const pace = new Pace({ min: 5, max: 1_000 });
  pace.wake();
  pace.looking(0);
  pace.found(0, true, true);
  expect(pace.dueInMs(0)).toBe(0);
  pace.looking(1);
  pace.found(1, false, true);
  expect(pace.idle).toBe(true);
  pace.looking(6);
  pace.rest(6, 4_000);
  pace.expect(500);
  pace.looking(500);
  pace.looking(500);
  pace.found(500, false, true);
  expect(pace.idle).toBe(true);
});

it("leaves a failing database alone, whatever wakes it, and at most five seconds", () => {
  const pace = new Pace({ min: 5, max: 1_000 });
  for (let failures = 1; failures <= 20; failures++) {
    pace.looking(0);
    pace.failed(0);
    pace.wake();
    pace.expect(0);
    expect(pace.dueInMs(0)).toBeGreaterThan(0);
    expect(pace.dueInMs(0)).toBeLessThanOrEqual(5_000);
  }
  expect(backOffMs(20)).toBeGreaterThanOrEqual(2_500);
});

it("looks when a message is known to fall due", () => {
  const pace = new Pace({ min: 1_000, max: 1_000 });
  pace.looking(0);
  pace.empty(0);
  pace.expect(400);
  pace.expect(700);
  expect(pace.dueInMs(100)).toBe(300);
  pace.looking(400);
  pace.empty(400);
  expect(pace.dueInMs(400)).toBe(1_000);
});

it("a bell that rang while nobody waited ends the next wait", async () => {
  const bell = new Bell();
  bell.ring();
  await bell.wait(60_000);
  setTimeout(() => bell.ring(), 1);
  await bell.wait(Number.POSITIVE_INFINITY);
  await bell.wait(1);
});

it("waits for an answer only so long", async () => {
  const never = new Promise<never>(() => {});
  await expect(within(5, "a claim", never)).rejects.toMatchObject({ code: "SERVICE_UNAVAILABLE" });
  expect(await within(1_000, "a claim", Promise.resolve(1))).toBe(1);
  expect(await settledWithin(5, never)).toBe(false);
  expect(await settledWithin(1_000, Promise.reject(new Error("ended")))).toBe(true);
});
