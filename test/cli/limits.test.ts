import { describe, expect, it } from "vitest";
import { rate, shortRate, shortSpan, span } from "../../lib/cli/spans.ts";
import { eachDatabase } from "../support/databases.ts";
import { note, watched } from "../support/queue.ts";
import { runCli } from "./support.ts";

eachDatabase("the limits commands", (database) => {
  const opened = async () => {
    const { url, knex } = await database.fresh();
    const cli = (...argv: string[]) => runCli(argv, { database: url });
    return { knex, cli, queue: watched(knex).queue };
  };

  it("set, list, change, park, charge and remove a limit", async () => {
    const { cli, queue } = await opened();
    expect((await cli("limits", "ls")).out).toMatch(
      /^No limits\. To make one: agent-outbox limits/,
    );
    expect((await cli("limits", "ls", "--json")).json()).toEqual([]);
    const made = await cli(
      ...["limits", "set", "gpt", "--agent", "writer", "--type", "NOTE"],
      ...["--rate", "90/min", "--burst", "5000", "--max-in-flight", "2"],
    );
    expect(made).toMatchObject({ code: 0, err: "" });
    expect(made.out).toBe(
      "Made gpt for writer, NOTE: at most 2 in flight; 90/min, at once 5000.\n",
    );
    expect(await queue.limits.get("gpt")).toMatchObject({
      ...{ agentId: "writer", messageType: "NOTE", maxInFlight: 2 },
      rate: { amount: 90, perMs: 60_000, burst: 5_000 },
    });
    // What is not given stays as it is.
    const more = await cli("limits", "set", "gpt", "--max-in-flight", "3");
    expect(more.out).toMatch(/^Changed gpt for writer, NOTE: at most 3 in flight; 90\/min, at/);
    await queue.sendMessage({ ...note("writer"), cost: 1_000 });
    await queue.getMessages("writer");
    const { out } = await cli("limits", "ls");
    expect(out).toMatch(/^NAME +ABOUT +IN FLIGHT +RATE +BUCKET +PARKED\n/);
    expect(out).toMatch(/\ngpt +writer, NOTE +1 of 3 +90\/min +4\d\d\d(\.\d+)? of 5000 +–\n$/);
    expect((await cli("limits", "park", "gpt", "10min")).out).toMatch(
      /^Parked gpt; it goes on in (9|10) min\.\n$/,
    );
    expect((await cli("limits", "park", "gpt", "1s")).out).toContain("as it was told before");
    expect((await cli("limits", "ls", "--json")).json()).toMatchObject([
      {
        name: "gpt",
        in_flight: 1,

        parked_until: expect.stringMatching(/Z$/),
      },
    ]);
    const charged = await cli("limits", "charge", "gpt", "6000");
    expect(charged.out).toMatch(
      /^The bucket of gpt holds -\d+(\.\d+)? of 5000; paid off in .*\.\n$/,
    );
    await cli("limits", "charge", "gpt", "6000", "--back");
    expect((await queue.limits.get("gpt"))?.tokens).toBeGreaterThan(3_900);
    const without = await cli("limits", "set", "gpt", "--no-rate", "--json");
    expect(without.json()).toMatchObject({ rate: null, max_in_flight: 3, agent_id: "writer" });
    expect((await cli("limits", "charge", "gpt", "1")).err).toContain("has no bucket");
    expect((await cli("limits", "rm", "gpt", "--json")).json()).toEqual({
      name: "gpt",
      removed: true,
    });
    for (const argv of [["rm"], ["park", "1s"], ["charge", "1"]]) {
      const [verb = "", ...rest] = argv;
      const { code, err } = await cli("limits", verb, "gpt", ...rest);
      expect({ code, verb }).toEqual({ code: 4, verb });
      expect(err).toContain("there is no limit gpt");
    }
  });

  it.each([
    [["set", "x"], "give --max-in-flight N, --rate AMOUNT/TIME or both", "--rate 10/s"],
    [["set", "x", "--rate", "10"], 'got "10"', "90000/min, 10/s"],
    [["set", "x", "--rate", "10/fortnight"], "expected an amount and a time", ""],
    [["set", "x", "--max-in-flight", "2", "--burst", "3"], "--burst goes with --rate", ""],
    [["set", "x", "--max-in-flight", "0"], "expected 1 to 10000", ""],
    [["park", "x", "soon"], "expected a number with its unit", "15min"],
    [["charge", "x", "many"], "expected a number", ""],
  ])("limits %j says what is wrong, and what to write", async (argv, problem, fix) => {
    const { code, out, err } = await runCli(["limits", ...argv], { database: database.url() });
    expect({ code, out }, err).toEqual({ code: 2, out: "" });
    expect(err).toContain(problem);
    expect(err).toContain(fix);
  });

  it("says that a limit cannot become one of another mailbox, or of nothing", async () => {
    const { cli } = await opened();
    await cli("limits", "set", "l", "--agent", "a", "--max-in-flight", "1");
    const other = await cli("limits", "set", "l", "--agent", "b");
    expect(other.code).toBe(2);
    expect(other.err).toContain("it is about another mailbox or type");
    const none = await cli("limits", "set", "l", "--no-max-in-flight");
    expect(none.err).toContain("agent-outbox limits rm l");
  });
});

eachDatabase("the keys commands", (database) => {
  it("list halted keys with their dead letters, and go on without them", async () => {
    const { url, knex } = await database.fresh();
    const { queue } = watched(knex);
    const cli = (...argv: string[]) => runCli(argv, { database: url });
    expect((await cli("keys", "ls")).out).toBe("No ordering key is halted.\n");
    await queue.mailboxes.set("a", { onDeadLetter: "halt" });
    await queue.sendMessages([1, 2].map((n) => ({ ...note("a", { n }), orderingKey: "k" })));
    const [head] = await queue.getMessages("a");
    await head?.deadLetter("rejected");
    const { out } = await cli("keys", "ls");
    expect(out).toMatch(/^MAILBOX +KEY +HALTED +BY +REASON\na +k +(now|\d+ s ago) +.* +rejected\n/);
    expect(out).toContain(`agent-outbox dlq redrive ${head?.messageId}`);
    expect((await cli("keys", "ls", "a", "--json")).json()).toMatchObject([
      {
        agent_id: "a",
        ordering_key: "k",
        message_id: head?.messageId,
        halted_at: expect.stringMatching(/Z$/),
      },
    ]);
    expect((await cli("keys", "ls", "b", "--json")).json()).toEqual([]);
    expect((await cli("keys", "resume", "a", "k")).out).toBe("Resumed k of a.\n");
    expect(await queue.getMessages("a")).toHaveLength(1);
    const again = await cli("keys", "resume", "a", "k");
    expect(again.code).toBe(4);
    expect(again.err).toContain("the key k of a is not halted");
  });
});

describe("spans and rates", () => {
  it.each([
    ["500ms", 500],
    ["90s", 90_000],
    ["15min", 900_000],
    ["15m", 900_000],
    ["6h", 21_600_000],
    ["1d", 86_400_000],
  ])("%s is %i ms", (text, ms) => {
    expect(span("x", text)).toBe(ms);
    expect(span("x", shortSpan(ms))).toBe(ms);
  });

  it.each([
    ["90/min", { amount: 90, perMs: 60_000 }, "90/min"],
    ["10/s", { amount: 10, perMs: 1_000 }, "10/s"],
    ["0.5/hour", { amount: 0.5, perMs: 3_600_000 }, "0.5/h"],
    ["1_000/15min", { amount: 1_000, perMs: 900_000 }, "1000/15min"],
  ])("%s is a rate", (text, expected, shown) => {
    expect(rate("x", text)).toEqual(expected);
    expect(shortRate(expected)).toBe(shown);
  });
});
