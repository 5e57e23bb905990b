import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { mailbox } from "../support/queue.ts";
import { runCli } from "./support.ts";

const HOUR = 3_600_000;

eachDatabase("the schedules commands", (database) => {
  const cli = (...argv: string[]) => runCli(argv, { database: database.url() });
  const json = async <T = Record<string, unknown>>(...argv: string[]) =>
    (await cli(...argv, "--json")).json<T>();

  it("set, show, preview, pause, resume, run and delete a schedule", async () => {
    const to = mailbox();
    const make = ["schedules", "set", "report", "--cron", "30 2 * * *", "--tz", "Europe/Rome"]
      .concat(["--to", to, "--type", "REPORT", "--content", '{"days":1}', "--catch-up", "none"])
      .concat(["--header", "tenant=a", "--priority", "HIGH"]);
    const made = await cli(...make);
    expect(made).toMatchObject({ code: 0, err: "" });
    expect(made.out).toMatch(
      /^Made report, 30 2 \* \* \* \(Europe\/Rome\); next 20.*Z \(in \d+ .*\)\.\n$/,
    );
    expect((await cli(...make)).out).toMatch(/^There already: report/);
    expect(await json(...make, "--max-catch-up", "7")).toMatchObject({
      ...{ outcome: "updated", max_catch_up: 7, catch_up: "none", time_zone: "Europe/Rome" },
    });
    const shown = await cli("schedules", "show", "report");
    for (const text of ["30 2 * * * (Europe/Rome)", "active", "REPORT", '"days": 1', to]) {
      expect(shown.out).toContain(text);
    }
    const schedule = await json("schedules", "show", "report");
    expect(schedule).toMatchObject({
      ...{ name: "report", next_run_at: expect.stringMatching(/:30:00\.000Z$/), paused_at: null },
      message: {
        ...{ to_agent: to, message_type: "REPORT", content: { days: 1 }, priority: "HIGH" },
        headers: { tenant: "a" },
      },
    });
    const { next_runs: next } = await json<{ next_runs: string[] }>("schedules", "next", "report");
    expect(next).toHaveLength(5);
    expect(next[0]).toBe(schedule.next_run_at);
    const table = await cli("schedules", "next", "report", "-n", "2");
    expect(table.out).toMatch(/^DUE +THERE +IN\n.* 02:30:00 (CET|CEST|GMT\+[12]) +in /);

    expect((await cli("schedules", "pause", "report", "-r", "audit")).out).toContain("To undo");
    expect((await cli("schedules", "ls")).out).toMatch(/report .* paused +– +– +0 +0/);
    expect((await cli("schedules", "show", "report")).out).toMatch(/because +audit/);
    expect((await cli("schedules", "next", "report")).out).toContain("report is paused");
    expect((await cli("schedules", "resume", "report")).out).toMatch(/^Resumed report; next 20/);
    expect((await cli("schedules", "resume", "report")).out).toContain("was not paused");

    const sent = await json<{ message_id: string }>("schedules", "run", "report");
    const [message] = (await cli("receive", to, "--json")).lines();
    expect(message).toMatchObject({ message_id: sent.message_id, headers: { schedule: "report" } });

    expect(await json("schedules", "rm", "report")).toEqual({ name: "report", removed: true });
    expect((await cli("schedules", "show", "report")).code).toBe(4);
  });

  it("list what fires, as a table and as JSON", async () => {
    const { url, knex } = await database.fresh();
    const run = (...argv: string[]) => runCli(argv, { database: url });
    expect((await run("schedules", "ls")).out).toBe("No schedules.\n");
    expect((await run("schedules", "ls", "--json")).json()).toEqual([]);
    for (const [name, every] of [
      ["a", "90s"],
      ["b", "15min"],
      ["c", "1d"],
    ] as const) {
      const line = ["schedules", "set", name, "--every", every, "--to", "x,y", "-t", "T"];
      expect((await run(...line)).code).toBe(0);
    }
    const { out } = await run("schedules", "ls");
    expect(out).toMatch(/^NAME +WHEN +TO +TYPE +STATE +NEXT +LAST +RUNS +SKIPPED\n/);
    expect(out).toMatch(/\na +every 90 s +x, y +T +active +in 1 min +– +0 +0\n/);
    expect(out).toMatch(/\nb +every 15 min /);
    expect(out).toMatch(/\nc +every 1 d /);
    await knex("outbox_schedules").update({
      ...{
        next_run_at: knex.raw("next_run_at - ?", [HOUR]),
        due_at: knex.raw("due_at - ?", [HOUR]),
      },
    });
    const worker = new AbortController();
    let done = "";
    // A worker on the command line fires as any other.
    await runCli(["work", "x", "--exec", "cat", "--json"], {
      database: url,
      signal: worker.signal,
      onOutput: (text) => {
        done = text;
        if (text.split("\n").length > 2) worker.abort("SIGINT");
      },
    });
    expect(done).toContain("a@20");
    const [first, second] = (await run("schedules", "ls", "--json")).json<
      Record<string, unknown>[]
    >();
    expect(first).toMatchObject({ name: "a", every_ms: 90_000, runs: 1, skipped: 39 });
    expect(second).toMatchObject({ name: "b", runs: 1, last_message_id: expect.any(String) });
    expect((await run("schedules", "ls", "-n", "1", "--after", "a")).out).toMatch(
      /\nb .*\nThere may be more: --after b\n$/s,
    );
  });

  it.each([
    [
      ["--cron", "0 25 * * *"],
      'the hour "25" (field 2 of 5) is wrong: expected 0 to 23',
      "MON-FRI",
    ],
    [["--cron", "* * * *"], "expected five fields", "day of the week"],
    [["--cron", "@daily", "--tz", "Europe/Rom"], 'no time zone "Europe/Rom"', "mean Europe/Rome?"],
    [["--every", "90"], "expected a number with its unit", "--every 90s"],
    [["--every", "10ms"], "at least 1000 ms", ""],
    [["--every", "1h", "--tz", "UTC"], "--tz goes with --cron", ""],
    [["--every", "1h", "--cron", "@daily"], "one of them", "--every 15min"],
    [[], "give --cron EXPRESSION or --every INTERVAL", "--tz Europe/Rome"],
    [["--every", "1h", "--catch-up", "al"], "expected latest, all, none", "--catch-up all"],
    [["--every", "1h", "--start", "tomorrow"], "options.startAt: expected an instant", ""],
  ])("set with %j says what is wrong, and what was meant", async (given, problem, fix) => {
    const { code, out, err } = await cli("schedules", "set", "s", "--to", "a", "-t", "T", ...given);
    expect({ code, out }, err).toEqual({ code: 2, out: "" });
    expect(err).toContain(problem);
    expect(err).toContain(fix);
  });

  it("say when there is no such schedule, or too little was given", async () => {
    for (const verb of ["show", "next", "pause", "resume", "run", "rm"]) {
      const { code, err } = await cli("schedules", verb, "nobody");
      expect(code, verb).toBe(4);
      expect(err).toContain("there is no schedule nobody");
      expect(err).toContain("schedules ls");
    }
    const set = ["schedules", "set", "s", "--every", "1h"];
    expect((await cli(...set, "-t", "T")).err).toContain("--to AGENT is missing");
    expect((await cli(...set, "--to", "a")).err).toContain("--type TYPE is missing");
  });
});
