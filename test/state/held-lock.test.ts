import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import type { Lock } from "../../lib/protocol/locks.ts";
import { HeldLocks } from "../../lib/state/held-lock.ts";
import { until } from "../support/processes.ts";
import { TIMED } from "../support/timed.ts";

it("whoever has finished does not wait for a renewal that is never answered", TIMED, async () => {
  let asked = 0;
  const held = new HeldLocks([{ resourceId: "r" } as Lock], performance.now(), {
    ttlMs: 3_000,
    renew: () => {
      asked += 1;
      return new Promise(() => undefined);
    },
  });
  await until(() => asked === 1);
  const ended = held.end().then(() => "ended");
  expect(await Promise.race([ended, sleep(2_000, "kept")])).toBe("ended");
});
