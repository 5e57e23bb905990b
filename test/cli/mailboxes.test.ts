import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { note, watched } from "../support/queue.ts";
import { runCli } from "./support.ts";

eachDatabase("the mailboxes commands", (database) => {
  const opened = async () => {
    const { url, knex } = await database.fresh();
    const cli = (...argv: string[]) => runCli(argv, { database: url });
    return { knex, cli, queue: watched(knex).queue };
  };

  it("set what is given, leave the rest, and take it back", async () => {
    const { cli, queue } = await opened();
    expect((await cli("mailboxes", "ls")).out).toBe("No mailbox has a setting of its own.\n");
    const set = (...argv: string[]) => cli("mailboxes", "set", "a", ...argv);
    const made = await set("--key-limit", "2", "--aging", "60s", "--on-dead-letter", "halt");
    expect(made).toMatchObject({ code: 0, err: "" });
    expect(made.out).toBe("Set a: key-limit 2, on-dead-letter halt, aging 1min.\n");
    await set("--fair", "--max-depth", "10_000", "--aging", "none");
    await set("--breaker", "5/30s/10s", "--breaker-when-open", "fail");
    expect(await queue.mailboxes.get("a")).toMatchObject({
      ...{ keyLimit: 2, onDeadLetter: "halt", agingMs: null, fair: true, maxDepth: 10_000 },
      breaker: {
        ...{ failureThreshold: 5, recoveryTimeoutMs: 30_000, monitoringPeriodMs: 10_000 },
        ...{ whenOpen: "fail", state: "closed" },
      },
    });
    await set("--breaker", "7");
    expect((await queue.mailboxes.get("a")).breaker).toMatchObject({
      ...{ failureThreshold: 7, recoveryTimeoutMs: 30_000, whenOpen: "fail" },
    });
    await set("--breaker-when-open", "hold");
    expect((await queue.mailboxes.get("a")).breaker).toMatchObject({
      ...{ failureThreshold: 7, whenOpen: "hold" },
    });
    expect((await cli("mailboxes", "ls")).out).toMatch(
      /^MAILBOX +PAUSED +BREAKER +SETTINGS\na +– +closed +key-limit 2, .*breaker 7\/30s\/10s\n$/,
    );
    expect((await cli("mailboxes", "ls", "--json")).json()).toMatchObject([
      { agent_id: "a", key_limit: 2, breaker: { when_open: "hold" } },
    ]);
    const cleared = await set(
      ...["--no-breaker", "--no-fair", "--key-limit", "none", "--max-depth", "none"],
      ...["--on-dead-letter", "none"],
    );
    expect(cleared.out).toBe("Set a: all by default.\n");
    expect(await queue.mailboxes.get("a")).toMatchObject({
      ...{ keyLimit: null, onDeadLetter: null, fair: false, maxDepth: null, breaker: null },
    });
  });

  it("take a retry policy as JSON or by name", async () => {
    const { cli, queue } = await opened();
    const set = (policy: string) => cli("mailboxes", "set", "a", "--retry-policy", policy);
    await set('{"maxAttempts":8,"initialDelayMs":5}');
    expect((await queue.mailboxes.get("a")).retryPolicy).toMatchObject({ maxAttempts: 8 });
    expect((await set("rate_limit")).code).toBe(0);
    expect((await queue.mailboxes.get("a")).retryPolicy).toMatchObject({ respectRetryAfter: true });
    expect((await cli("mailboxes", "show", "a")).out).toMatch(/retry policy +\{"maxAttempts":5/);
    await set("none");
    expect((await queue.mailboxes.get("a")).retryPolicy).toBeNull();
    const wrong = await set("rate_limits");
    expect(wrong.code).toBe(2);
    expect(wrong.err).toContain("there is no policy rate_limits; there are transient_error, ");
    expect(wrong.err).toContain("Did you mean --retry-policy rate_limit?");
    expect((await set('{"attempts":1}')).err).toContain("attempts");
  });

  it("show a mailbox with its breaker and its consumers", async () => {
    const { cli, queue } = await opened();
    await queue.mailboxes.set("a", {
      breaker: { failureThreshold: 1, recoveryTimeoutMs: 600_000 },
    });
    await queue.pause("a", { reason: "audit" });
    await queue.resume("a");
    expect((await cli("mailboxes", "show", "a")).out).toContain("none was seen within a day");
    await queue.sendMessage(note("a"));
    const [claim] = await queue.getMessages("a", { workerId: "w1", messageTypes: ["NOTE"] });
    await claim?.nack(new Error("down"), { delayMs: 0 });
    await until(async () => (await queue.consumers("a")).length === 1);
    const { out } = await cli("mailboxes", "show", "a");
    expect(out).toMatch(/breaker +1\/10min\/10s, hold when open\n/);
    expect(out).toMatch(/state +open, until 20.*Z \(in (9|10) min\)\n/);
    expect(out).toMatch(/CONSUMER +LIVE +SEEN +TYPES\nw1 +yes +.* +NOTE\n/);
    expect((await cli("mailboxes", "show", "a", "--json")).json()).toMatchObject({
      ...{ agent_id: "a", paused_at: null, breaker: { state: "open" } },
      consumers: [{ worker_id: "w1", live: true, message_types: ["NOTE"] }],
    });
    expect((await cli("mailboxes", "show", "unknown")).out).toMatch(/key limit +1 \(default\)/);
  });

  it.each([
    [[], "nothing to set", "agent-outbox mailboxes show a"],
    [["--key-limit", "two"], '--key-limit: expected a whole number, got "two"', ""],
    [["--aging", "60"], "--aging: expected a number with its unit", "90s"],
    [["--breaker", "5/30/10"], "--breaker: expected a number with its unit", ""],
    [["--breaker", "1/1s/1s/1s"], "expected FAILURES/OPEN/WITHIN", "--breaker 5/30s/10s"],
    [["--breaker-when-open", "fail"], "the mailbox a has no breaker", "--breaker 5/30s/10s"],
    [["--breaker", "5", "--no-breaker"], "--no-breaker goes with no other option", ""],
    [["--fair", "--no-fair"], "give --fair or --no-fair", ""],
    [["--on-dead-letter", "stop"], "expected skip, halt, none", ""],
    [["--key-limit", "0"], "keyLimit", ""],
  ])("set with %j says what is wrong, and what to do", async (argv, problem, fix) => {
    const { code, out, err } = await runCli(["mailboxes", "set", "a", ...argv], {
      database: database.url(),
    });
    expect({ code, out }, err).toEqual({ code: 2, out: "" });
    expect(err).toContain(problem);
    expect(err).toContain(fix);
  });
});
