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
