import { describe, expect, it } from "vitest";
import { COMMANDS } from "../../lib/cli/commands.ts";
import { suggest } from "../../lib/cli/suggest.ts";
import { runCli } from "./support.ts";

/** Nothing here may need a database: it would be refused. */
const nowhere = { database: "postgres://nobody@127.0.0.1:1/none" };

describe("a wrong command line", () => {
  it.each([
    [["sned", "a"], 'there is no command "sned"', 'Did you mean "send"?'],
    [["xyzzy"], 'there is no command "xyzzy"', "--help` lists all commands"],
    [["dlq", "lss"], 'there is no command "dlq lss"', 'Did you mean "dlq ls"?'],
    [["dlq", "frobnicate"], 'there is no command "dlq frobnicate"', '"dlq redrive"'],
    [["agents", "list"], 'there is no command "agents list"', '"agents ls"'],
    [["send", "a", "--typ", "t"], "there is no option --typ", "Did you mean --type?"],
    [["stats", "-x"], "there is no option -x", ""],
    [["--jsn", "stats"], "there is no option --jsn before the command", "Did you mean --json?"],
    [["send"], "AGENT is missing", "Usage: agent-outbox send AGENT…"],
    [["send", "a"], "--type TYPE is missing", "--type greet"],
    [["ack"], "ID is missing", "Usage: agent-outbox ack ID"],
    [["ack", "id"], "--agent AGENT is missing", ""],
    [["ack", "id", "more"], '"more" is one argument too many', "Usage"],
    [["nack", "id", "-a", "x"], "--error TEXT is missing", ""],
    [["work", "a"], "--exec CMD is missing", "--exec 'jq .content'"],
    [["receive", "a", "--limit"], "--limit N needs a value", ""],
    [["receive", "a", "--limit", "--ack"], "--limit N needs a value", "--limit=--ack"],
    [["receive", "a", "--limit", "many"], "expected a whole number, got", ""],
    [["receive", "a", "--limit", "0"], "expected 1 to 1000, got 0", ""],
    [["receive", "a", "--lease-ms", "30s"], "whole number of milliseconds", "--lease-ms 30000."],
    [["receive", "a", "-n", "1", "-n", "2"], "--limit is given twice", ""],
    [["receive", "a", "--ack=yes"], "--ack takes no value", ""],
    [["tasks", "ls", "--state", "workin"], "--state: expected submitted,", "--state working?"],
    [["schema", "--client", "mysql"], "--client: expected pg, mssql, sqlite3", ""],
    [["migrate", "--status", "--down"], "exclude each other", ""],
    [["migrate", "--steps", "2"], "--steps goes with --down", ""],
    [["logs", "cleanup", "--keep", "soon"], "expected a number of days such as 30d", ""],
    [["send", "a", "-t", "t", "-c", "{a:1}"], "--content is not JSON", "single quotes"],
    [["send", "a", "-t", "t", "-c", "@/no/such/file"], "--content: ENOENT", ""],
    [["send", "a", "-t", "t", "-c", "-"], "--content: there is nothing to read", ""],
    [["agents", "register", "a", "--metadata", "[1]"], "expected a JSON object", ""],
    [["dlq", "redrive"], "which ones?", "--all"],
    [["dlq", "purge"], "which ones?", "--all"],
    [["dlq", "discard"], "which ones?", "--all"],
    [["dlq", "edit", "order-17"], "what is to be changed?", "--content"],
    [["dlq", "edit", "order-17", "--subject", "s", "--to", "a"], "go with --replay", ""],
    [["stats", "--database", "ftp://x"], "no database URL", "postgres://"],
  ])("%j says what is wrong, and what was meant", async (argv, problem, fix) => {
    const { code, out, err } = await runCli(argv, nowhere);
    expect({ code, out }, err).toEqual({ code: 2, out: "" });
    expect(err.split("\n")[0]).toMatch(/^error: /);
    expect(err).toContain(problem);
    if (fix !== "") expect(err).toContain(fix);
    expect(err).not.toMatch(/\n\s+at /);
  });

  it("is told as JSON where JSON was asked for", async () => {
    const { code, out, err } = await runCli(["sned", "--json"]);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(JSON.parse(err)).toEqual({
      error: {
        name: "UsageError",
        code: "USAGE",
        message: 'there is no command "sned"',
        recovery_suggestion: 'Did you mean "send"?',
      },
    });
  });

  it("is answered with the help where there is none at all", async () => {
    for (const argv of [[], ["dlq"], ["agents", "--json"]]) {
      const { code, out, err } = await runCli(argv);
      expect({ code, out }).toEqual({ code: 2, out: "" });
      expect(err).toContain("Usage");
    }
  });
});

describe("help", () => {
  it("lists every command", async () => {
    for (const argv of [["--help"], ["-h"], ["help"]]) {
      const { code, out, err } = await runCli(argv);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      for (const { name } of COMMANDS) expect(out).toContain(`  ${name} `);
    }
  });

  it("of a family lists its commands", async () => {
    for (const argv of [
      ["dlq", "--help"],
      ["help", "dlq"],
    ]) {
      const { code, out } = await runCli(argv);
      expect(code).toBe(0);
      for (const verb of ["ls", "show", "redrive", "discard"]) expect(out).toContain(`dlq ${verb}`);
    }
  });

  it.each(COMMANDS.map((command) => [command.name, command] as const))(
    "of %s shows usage, every option and examples, in any width",
    async (name, command) => {
      for (const columns of [undefined, 100, 80, 40]) {
        const argv = ["help", ...name.split(" ")];
        const { code, out } = await runCli(argv, {
          env: { NO_COLOR: "1" },
          ...(columns === undefined ? {} : { columns }),
        });
        expect(code).toBe(0);
        expect(out).toContain(`agent-outbox ${name}`);
        for (const option of Object.keys(command.options)) expect(out).toContain(`--${option}`);
        for (const [line] of command.examples) expect(out).toContain(line);
        if (columns === undefined) continue;
        // Command lines stay whole, so that they can be copied.
        const prose = out.split("\n").filter((line) => !line.includes("agent-outbox"));
        const examples = command.examples.map(([line]) => line);
        for (const line of prose) {
          if (examples.some((example) => line.includes(example))) continue;
          expect(line.length, line).toBeLessThanOrEqual(columns);
        }
      }
      if (command.passThrough !== true) {
        const { code, out } = await runCli([...name.split(" "), "--help"]);
        expect({ code, out }).toEqual({
          code: 0,
          out: (await runCli(["help", ...name.split(" ")])).out,
        });
      }
    },
  );

  it("has examples that are right command lines", async () => {
    for (const command of COMMANDS) {
      expect(command.examples.length, command.name).toBeGreaterThan(0);
      for (const [line] of command.examples) {
        const own = line.includes("agent-outbox ") ? line.split("agent-outbox ")[1] : line;
        expect(own?.startsWith(command.name), line).toBe(true);
        // What comes after a pipe, or after "--", is another program's.
        const ours = (own ?? "").split(/ [|>] | -- /)[0] ?? "";
        for (const [, option] of ours.matchAll(/ --([a-z-]+)/g)) {
          const known = [...Object.keys(command.options), "json", "database", "prefix", "quiet"];
          if (command.passThrough !== true) expect(known, line).toContain(option);
        }
      }
    }
  });
});

describe("the command line", () => {
  it("tells its version", async () => {
    const { code, out } = await runCli(["--version"]);
    expect(code).toBe(0);
    expect(out).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it("takes global options before the command and after it", async () => {
    const database = "postgres://u:secret@h/db";
    const after = await runCli(["config", "--database", database, "--prefix", "x_", "--json"]);
    const between = await runCli(["dlq", "--database", "ftp://x", "ls"]);
    expect(between).toMatchObject({ code: 2, err: expect.stringContaining("ftp://x") });
    const before = await runCli(["--json", "--database", database, "--prefix=x_", "config"]);
    expect(before).toMatchObject({ code: 0, out: after.out });
    expect(after.json()).toMatchObject({ database: "postgres://u:***@h/db", prefix: "x_" });
  });

  it("shows the settings in force, secrets masked", async () => {
    const env = {
      DATABASE_URL: "mssql://sa:topsecret@host/db",
      AGENT_MAX_RETRIES: "7",
      AZURE_CLIENT_SECRET: "verysecret",
    };
    const { code, out } = await runCli(["config"], { env });
    expect(code).toBe(0);
    expect(out).toContain("mssql://sa:***@host/db");
    expect(out).toMatch(/max_attempts +7/);
    expect(out).toContain("AZURE_CLIENT_SECRET");
    expect(out).not.toMatch(/secret\b(?!s)/);
    const bad = await runCli(["config"], { env: { AGENT_MAX_RETRIES: "none" } });
    expect(bad).toMatchObject({ code: 2, err: expect.stringContaining("AGENT_MAX_RETRIES") });
  });

  it("says that a database does not answer, without a stack unless one was asked for", async () => {
    const plain = await runCli(["stats"], nowhere);
    expect(plain).toMatchObject({ code: 1, out: "" });
    expect(plain.err).toMatch(
      /^error: the database did not answer: .*ECONNREFUSED.*\n {2}fix: .*\n$/,
    );
    for (const verbose of [
      await runCli(["stats", "--verbose"], nowhere),
      await runCli(["stats"], { ...nowhere, env: { DEBUG: "1" } }),
    ]) {
      expect(verbose.err).toMatch(/\n\s+at .*\ncaused by: /s);
    }
    const json = await runCli(["stats", "--json"], nowhere);
    expect(JSON.parse(json.err)).toMatchObject({ error: { code: "SERVICE_UNAVAILABLE" } });
    expect((await runCli(["health"], nowhere)).code).toBe(3);
    expect((await runCli(["doctor"], nowhere)).code).toBe(1);
  });

  it("ends at Ctrl-C, whatever it waits for", async () => {
    const stop = new AbortController();
    stop.abort("SIGINT");
    expect((await runCli(["stats"], { ...nowhere, signal: stop.signal })).code).toBe(130);
  });
});

describe("a suggestion", () => {
  it.each([
    ["sned", "send"],
    ["recieve", "receive"],
    ["stat", "stats"],
    ["helth", "health"],
    ["doc", "doctor"],
    ["q", undefined],
    ["zz", undefined],
    ["completely-else", undefined],
  ])("for %s is %s", (typed, meant) => {
    const known = ["send", "receive", "stats", "health", "doctor", "ls", "rm"];
    expect(suggest(typed, known)).toBe(meant);
  });
});
