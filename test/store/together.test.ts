import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { AgentCommunicationError, ServiceUnavailable } from "../../lib/index.ts";
import { Together } from "../../lib/store/together.ts";
import { TIMED } from "../support/timed.ts";

/** Runs groups as the test says, and notes them. */
function together(run: (group: readonly string[]) => Promise<void>) {
  const groups: string[][] = [];
  const calls = new Together<string, string>({
    async run(items) {
      groups.push([...items]);
      await run(items);
      return items.map((item) => item.toUpperCase());
    },
    weightOf: (item) => item.length,
    mostWeight: 9,
  });
  return { calls, groups };
}

/** A promise that the test resolves. */
function gate() {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, opened };
}

it("a lone call goes at once, and what comes meanwhile goes together, each with its own answer", async () => {
  const { open, opened } = gate();
  const { calls, groups } = together(() => opened);
  const answers = ["a", "b", "c", "seven77", "d"].map((item) => calls.add(item));
  expect(groups).toEqual([["a"]]);
  open();
  expect(await Promise.all(answers)).toEqual(["A", "B", "C", "SEVEN77", "D"]);
  // As much as a group may weigh.
  expect(groups).toEqual([["a"], ["b", "c", "seven77"], ["d"]]);
  await calls.idle();
});

it("one that is refused costs the others nothing; what all would meet is told to all at once", async () => {
  const { calls, groups } = together(async (group) => {
    if (group.includes("bad")) throw new AgentCommunicationError("DATABASE_ERROR", "refused");
    if (group.includes("away")) throw new ServiceUnavailable("away");
  });
  const some = ["a", "b", "bad", "c"].map((item) => calls.add(item));
  expect((await Promise.allSettled(some)).map(({ status }) => status)).toEqual([
    ...["fulfilled", "fulfilled", "rejected", "fulfilled"],
  ]);
  await calls.idle();
  groups.length = 0;
  const all = ["a", "b", "away"].map((item) => calls.add(item));
  expect((await Promise.allSettled(all)).map(({ status }) => status)).toEqual([
    ...["fulfilled", "rejected", "rejected"],
  ]);
  expect(groups).toEqual([["a"], ["b", "away"]]);
});

it(
  "a group that waits for somebody's lock does not keep those that come later",
  TIMED,
  async () => {
    const { open, opened } = gate();
    const { calls } = together((group) => (group.includes("locked") ? opened : Promise.resolve()));
    const first = calls.add("locked");
    // Longer than a group is waited for: nothing was waiting when that time was over.
    await sleep(100);
    expect(await Promise.race([calls.add("late"), sleep(2_000, "kept")])).toBe("LATE");
    open();
    await first;
  },
);

it("goes on where as many as may be under way never answer", TIMED, async () => {
  const { open, opened } = gate();
  const { calls } = together((group) => (group.includes("silent") ? opened : Promise.resolve()));
  const silent: Promise<string>[] = [];
  for (let n = 0; n < 4; n++) {
    silent.push(calls.add("silent"));
    await sleep(40);
  }
  expect(await Promise.race([calls.add("late"), sleep(5_000, "kept")])).toBe("LATE");
  open();
  expect(await Promise.all(silent)).toHaveLength(4);
});
