import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Ear } from "../../lib/queue/wake/notify-ear.ts";
import type { ListenCalls, WakeChannel } from "../../lib/store/wake-channel.ts";

/** A channel whose connections the test breaks in ways that no real server breaks on request. */
function fakeChannel() {
  const open: (ListenCalls & { closed: boolean })[] = [];
  const state = { delivers: true, opened: 0, refuses: false };
  const channel: WakeChannel = {
    async send(payloads) {
      if (!state.delivers) return;
      for (const connection of open.filter(({ closed }) => !closed)) {
        for (const payload of payloads) connection.heard(payload);
      }
    },
    async listen(calls) {
      state.opened++;
      if (state.refuses) throw new Error("refused");
      const connection = { ...calls, closed: false };
      open.push(connection);
      return {
        close: () => {
          connection.closed = true;
        },
      };
    },
  };
  return { channel, state, open, live: () => open.filter(({ closed }) => !closed) };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const calls = () => ({ heard: vi.fn(), missed: vi.fn() });

it("a listener passes on what it hears, but not its own tests", async () => {
  const { channel, state } = fakeChannel();
  const told = calls();
  const ear = new Ear(() => channel, told);
  await vi.advanceTimersByTimeAsync(100_000);
  await channel.send(["agent-1 sender"]);
  expect(told.heard.mock.calls).toEqual([["agent-1 sender"]]);
  expect(state.opened).toBe(1);
  ear.close();
});

it("a listener that falls silent is found out and replaced, and what was missed is looked for", async () => {
  const { channel, state, live } = fakeChannel();
  const told = calls();
  const ear = new Ear(() => channel, told);
  await vi.advanceTimersByTimeAsync(0);
  expect(told.missed).toHaveBeenCalledTimes(1);
  // A half-open connection: nothing comes any more, and no error either.
  state.delivers = false;
  await vi.advanceTimersByTimeAsync(45_000);
  expect(state.opened).toBeGreaterThan(1);
  state.delivers = true;
  await vi.advanceTimersByTimeAsync(60_000);
  const { opened } = state;
  expect(told.missed).toHaveBeenCalledTimes(opened);
  expect(live()).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(300_000);
  expect(state.opened).toBe(opened);
  ear.close();
  expect(live()).toHaveLength(0);
});

it("a listener behind a pooler that never delivers tries ever more rarely", async () => {
  const { channel, state } = fakeChannel();
  state.delivers = false;
  const ear = new Ear(() => channel, calls());
  await vi.advanceTimersByTimeAsync(3_600_000);
  expect(state.opened).toBeLessThan(130);
  ear.close();
});

it("a listener that is refused or closed tries again, or no more", async () => {
  const { channel, state, open, live } = fakeChannel();
  state.refuses = true;
  const ear = new Ear(() => channel, calls());
  await vi.advanceTimersByTimeAsync(5_000);
  expect(state.opened).toBeGreaterThan(2);
  state.refuses = false;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(live()).toHaveLength(1);
  open.at(-1)?.lost();
  await vi.advanceTimersByTimeAsync(1_000);
  expect(live()).toHaveLength(1);
  ear.close();
  const { opened } = state;
  open.at(-1)?.lost();
  await vi.advanceTimersByTimeAsync(600_000);
  expect(state.opened).toBe(opened);
  expect(vi.getTimerCount()).toBe(0);
});
