import { describe, expect, it } from "vitest";
import { brakeOn, type Cause, conversationBrake, descent } from "../../lib/protocol/loops.ts";

const LIMITS = { maxHops: 32, maxPingPong: 10 };

const cause = (part: Partial<Cause> = {}): Cause => ({
  ...{ messageId: "m1", fromAgent: "a", contextId: "c", hops: 3, trail: ["x", "y"] },
  ...part,
});

describe("what a message has from its cause", () => {
  it("is one hop more, the sender in the trail, and where it belongs", () => {
    expect(descent({}, cause(), LIMITS)).toEqual({
      ...{ hops: 4, trail: ["x", "y", "a"], causationId: "m1", contextId: "c" },
    });
    expect(descent({ causationId: "own", contextId: "d" }, cause(), LIMITS)).toMatchObject({
      ...{ causationId: "own", contextId: "d" },
    });
  });

  it("is nothing without a cause, or with hops: 0", () => {
    expect(descent({}, undefined, LIMITS)).toEqual({});
    expect(descent({ hops: 7 }, undefined, LIMITS)).toEqual({ hops: 7 });
    expect(descent({ hops: 0, contextId: "d" }, cause(), LIMITS)).toEqual({ contextId: "d" });
  });

  it("never lowers the hops", () => {
    expect(descent({ hops: 1 }, cause(), LIMITS).hops).toBe(4);
    expect(descent({ hops: 9 }, cause(), LIMITS).hops).toBe(9);
  });

  it("keeps as much of the trail as the rules look at", () => {
    const trail = Array.from({ length: 300 }, (_, n) => `agent-${n}`);
    for (const [maxPingPong, length] of [
      [0, 16],
      [8, 16],
      [10, 20],
      [100, 200],
    ] as const) {
      const kept = descent({}, cause({ trail }), { maxPingPong }).trail;
      expect(kept).toHaveLength(length);
      expect(kept?.at(-1)).toBe("a");
    }
  });
});

/** The nth message of a chain in which the agents send in turns. */
function nth(n: number, agents: readonly string[], limits = LIMITS) {
  const at = (k: number) => agents[k % agents.length] as string;
  let chain: { hops?: number | undefined; trail?: readonly string[] | undefined } = {};
  for (let k = 0; k < n - 1; k++) {
    const sender = { messageId: `m${k}`, contextId: null, fromAgent: at(k) };
    chain = descent({}, { ...sender, hops: chain.hops ?? 0, trail: chain.trail ?? [] }, limits);
  }
  return { fromAgent: at(n - 1), toAgent: [at(n)], ...chain };
}

describe("the brakes", () => {
  it("let 32 messages lead to one, and stop the next with the chain and the remedy", () => {
    const ring = ["a", "b", "c"];
    expect(brakeOn(nth(33, ring), LIMITS)).toBeUndefined();
    const brake = brakeOn(nth(34, ring), LIMITS);
    expect(brake?.reason).toBe("hop_limit");
    expect(brake?.message).toContain("33 messages led to this one, more than maxHops (32)");
    expect(brake?.message).toContain("… → b → c → a → b");
    expect(brake?.message).toContain("hops: 0");
    expect(brakeOn(nth(500, ring), { ...LIMITS, maxHops: 0 })).toBeUndefined();
  });

  it("let two agents answer each other for ten round trips", () => {
    expect(brakeOn(nth(20, ["a", "b"]), LIMITS)).toBeUndefined();
    const brake = brakeOn(nth(21, ["a", "b"]), LIMITS);
    expect(brake?.reason).toBe("ping_pong");
    expect(brake?.message).toContain("a and b have answered each other");
    expect(brake?.message).toContain("maxPingPong (10)");
    expect(brakeOn(nth(21, ["a", "b"]), { ...LIMITS, maxPingPong: 0 })).toBeUndefined();
    const wide = { maxHops: 0, maxPingPong: 100 };
    expect(brakeOn(nth(200, ["a", "b"], wide), wide)).toBeUndefined();
    expect(brakeOn(nth(201, ["a", "b"], wide), wide)?.reason).toBe("ping_pong");
  });

  it("find no ping-pong in rings, in talks to oneself, or where a third agent gets it", () => {
    const limits = { maxHops: 0, maxPingPong: 2 };
    expect(brakeOn(nth(50, ["a", "b", "c"], limits), limits)).toBeUndefined();
    expect(brakeOn(nth(50, ["a"], limits), limits)).toBeUndefined();
    const stuck = nth(5, ["a", "b"], limits);
    expect(brakeOn(stuck, limits)?.reason).toBe("ping_pong");
    expect(brakeOn({ ...stuck, toAgent: ["boss"] }, limits)).toBeUndefined();
    expect(brakeOn({ ...stuck, toAgent: ["b", "boss"] }, limits)).toBeUndefined();
  });

  it("find a ping-pong that began late in a chain", () => {
    const limits = { maxHops: 0, maxPingPong: 2 };
    const late = { fromAgent: "a", toAgent: ["b"], hops: 9, trail: ["x", "y", "a", "b", "a", "b"] };
    expect(brakeOn(late, limits)?.message).toContain("… → x → y → a → b → a → b → a → b");
    expect(brakeOn({ ...late, trail: ["b", "x", "b", "a", "b"] }, limits)).toBeUndefined();
  });

  it("stop a conversation that is too long", () => {
    expect(conversationBrake("c", 100, 100)).toBeUndefined();
    expect(conversationBrake("c", 1e9, 0)).toBeUndefined();
    expect(conversationBrake("c", 101, 100)).toMatchObject({ reason: "conversation_limit" });
  });
});
