import { expect, it } from "vitest";
import { AgentCommunicationError, ServiceUnavailable } from "../../lib/index.ts";
import type { ClaimedMessage } from "../../lib/queue/claimed.ts";
import type { QueueCore } from "../../lib/queue/core.ts";
import { Settlement } from "../../lib/queue/worker/settlement.ts";
import { until } from "../support/processes.ts";

type Ack = (sequences: number[]) => Promise<("done" | "stale" | "gone")[]>;

/** A settlement over a database that answers, fails or is silent as the test says. */
function settlement(ack: Ack) {
  const ended = new AbortController();
  const told: unknown[] = [];
  const core = {
    tryAck: (claims: ClaimedMessage[]) => ack(claims.map(({ sequence }) => sequence)),
  } as unknown as QueueCore;
  const under = new Settlement(core, 200, ended.signal, (error) => told.push(error));
  const settle = (sequence: number) => under.ack({ sequence } as ClaimedMessage);
  return { settle, ended, told };
}

const away = () => Promise.reject(new ServiceUnavailable("away"));

it("acknowledges a lone one in the next turn, and in one group what came in meanwhile", async () => {
  const groups: number[][] = [];
  let answer = () => {};
  const { settle } = settlement(async (sequences) => {
    groups.push(sequences);
    await new Promise<void>((resolve) => {
      answer = resolve;
    });
    return sequences.map(() => "done");
  });
  const first = settle(1);
  await new Promise(setImmediate);
  expect(groups).toEqual([[1]]);
  const others = [settle(2), settle(3)];
  answer();
  expect(await first).toBe("done");
  await until(() => groups.length === 2);
  answer();
  expect(await Promise.all(others)).toEqual(["done", "done"]);
  expect(groups).toEqual([[1], [2, 3]]);
});

it("takes those along that return before the next turn", async () => {
  const groups: number[][] = [];
  const { settle } = settlement(async (sequences) => {
    groups.push(sequences);
    return sequences.map(() => "done");
  });
  const first = settle(1);
  for (let n = 0; n < 100; n++) await undefined;
  await Promise.all([first, settle(2)]);
  expect(groups).toEqual([[1, 2]]);
});

it("goes on until the database answers, and knows its own first try from a loss", async () => {
  let tries = 0;
  const { settle, told } = settlement(async () => (++tries < 3 ? away() : ["gone"]));
  expect(await settle(1)).toBe("done");
  expect(tries).toBe(3);
  expect(told).toHaveLength(1);
  expect(await settlement(async () => ["gone"]).settle(1)).toBe("gone");
});

it("does not let one that is refused hold up the others", async () => {
  const { settle } = settlement(async (sequences) => {
    if (sequences.includes(2)) throw new AgentCommunicationError("DATABASE_ERROR", "refused");
    return sequences.map(() => "done");
  });
  expect(await Promise.all([settle(1), settle(2), settle(3)])).toEqual(["done", undefined, "done"]);
});

it("gives up when the worker has ended", async () => {
  const { settle, ended } = settlement(away);
  const waiting = settle(1);
  ended.abort();
  expect(await waiting).toBeUndefined();
});
