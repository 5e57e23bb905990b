import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { mailbox } from "../support/queue.ts";
import { type CliOptions, runCli } from "./support.ts";

eachDatabase("the command line's agents and tasks", (database) => {
  const cli = (argv: readonly string[], options: CliOptions = {}) =>
    runCli(argv, { database: database.url(), ...options });

  it("registers, lists, shows, drains, resumes and removes agents", async () => {
    const id = mailbox("agent");
    expect((await cli(["agents", "show", id])).code).toBe(4);
    const registered = await cli(
      [
        "agents",
        "register",
        id,
        "--role",
        "reviewer",
        "-c",
        "review,typescript",
        "-c",
        "zig",
      ].concat(["--max-concurrent-tasks", "3", "--metadata", '{"roomNumber":7}', "--json"]),
    );
    expect(registered.json()).toMatchObject({
      agent_id: id,
      role: "reviewer",
      capabilities: ["review", "typescript", "zig"],
      max_concurrent_tasks: 3,
      metadata: { roomNumber: 7 },
      status: "active",
      heartbeat_at: expect.stringMatching(/Z$/),
    });
    const list = await cli(["agents", "ls", "--role", "reviewer"]);
    expect(list.out).toMatch(
      new RegExp(`^AGENT .*\n${id} +reviewer +idle +0/3 +(now|\\d+ s ago) +review`),
    );
    expect((await cli(["agents", "ls", "--capability", "cobol"])).out).toBe("No agents.\n");
    expect((await cli(["agents", "show", id])).out).toMatch(/takes tasks +yes/);
    expect((await cli(["agents", "drain", id])).code).toBe(0);
    expect((await cli(["agents", "ls", "--json"])).json<unknown[]>()).toContainEqual(
      expect.objectContaining({ agent_id: id, status: "draining", available: false }),
    );
    expect((await cli(["agents", "resume", id])).code).toBe(0);
    expect((await cli(["agents", "rm", id])).out).toBe(`Removed ${id}.\n`);
    for (const verb of ["rm", "show", "drain", "resume"]) {
      const { code, err } = await cli(["agents", verb, id]);
      expect({ code, told: err.startsWith("error: ") }, verb).toEqual({ code: 4, told: true });
    }
  });

  it("assigns, lists, shows and cancels tasks", async () => {
    const [agent, capability] = [mailbox("agent"), mailbox("skill")];
    const parked = await cli(["tasks", "assign", "review", "-c", capability, "--id", `${agent}-1`]);
    expect(parked.out).toContain("submitted: no agent can take it yet");
    expect((await cli(["tasks", "cancel", `${agent}-1`])).code).toBe(0);
    await cli(["agents", "register", agent, "-c", capability]);
    const assigned = await cli(
      ["tasks", "assign", "review", "-c", capability, "--id", `${agent}-2`, "--json"].concat([
        "-p",
        '{"theFile":"a.ts"}',
        "-d",
        "have a look",
        "--deadline-ms",
        "60000",
      ]),
    );
    expect(assigned.json()).toMatchObject({
      task_id: `${agent}-2`,
      agent_id: agent,
      state: "assigned",
      parameters: { theFile: "a.ts" },
      supervisor_id: "cli",
      duplicate: false,
    });
    const again = await cli(["tasks", "assign", "review", "-c", capability, "--id", `${agent}-2`]);
    expect(again.out).toContain("There already");
    const list = await cli(["tasks", "ls", "--agent", agent]);
    expect(list.out).toMatch(new RegExp(`^TASK .*\n${agent}-2 +review +assigned`));
    const show = await cli(["tasks", "show", `${agent}-2`]);
    expect(show.out).toMatch(/description +have a look/);
    expect(show.out).toContain('"theFile": "a.ts"');
    expect((await cli(["tasks", "show", "never-seen"])).code).toBe(4);
    expect((await cli(["tasks", "cancel", "never-seen"])).code).toBe(4);
    expect((await cli(["tasks", "cancel", `${agent}-2`, "-r", "enough"])).code).toBe(0);
    const ended = await cli(["tasks", "cancel", `${agent}-2`]);
    expect(ended).toMatchObject({ code: 1, err: expect.stringContaining("it is canceled") });
    const canceled = await cli(["tasks", "ls", "--state", "canceled", "--json"]);
    expect(canceled.json<{ task_id: string }[]>().map((task) => task.task_id)).toEqual([
      `${agent}-1`,
      `${agent}-2`,
    ]);
  });

  it("waits for the result of a task that `work` does", async () => {
    const [agent, capability] = [mailbox("agent"), mailbox("skill")];
    await cli(["agents", "register", agent, "-c", capability]);
    const stop = new AbortController();
    const program = `node -e '
      let text = "";
      process.stdin.on("data", (part) => (text += part)).on("end", () => {
        const { path } = JSON.parse(text).content.parameters;
        console.log(JSON.stringify({ path }));
      })'`;
    const working = cli(["work", agent, "--exec", program], { signal: stop.signal });
    const done = await cli(
      ["tasks", "assign", "look", "-c", capability, "--wait-ms", "20000", "--json"].concat([
        "-p",
        '{"path":"/tmp"}',
      ]),
    );
    expect(done.json(), done.err).toMatchObject({ state: "completed", result: { path: "/tmp" } });
    expect(done.code).toBe(0);
    stop.abort("SIGTERM");
    expect((await working).code).toBe(0);
    const late = await cli([
      "tasks",
      "assign",
      "look",
      "-c",
      capability,
      "--wait-ms",
      "50",
      "--json",
    ]);
    expect(late.code).toBe(1);
    expect(JSON.parse(late.err)).toMatchObject({
      error: {
        code: "MESSAGE_TIMEOUT",
        recovery_suggestion: expect.stringContaining("`agent-outbox tasks show "),
      },
    });
  });
});
