import { execFileSync, spawnSync } from "node:child_process";
import { readdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { jqCommands } from "../../demo/logs.ts";
import type { Report } from "../../demo/report.ts";
import { JQ_RECIPES } from "../observability/jq-recipes.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { TIMED } from "../support/timed.ts";
import {
  childrenOf,
  fixture,
  isRunning,
  reportIn,
  runDemo,
  SOURCE,
  startDemo,
  temporaryFolder,
} from "./support.ts";

const FILES = 22;
const hasJq = spawnSync("sh", ["-c", "jq --version"]).status === 0;

function expectAllDone(report: Report, root: string): void {
  expect(report.folder).toBe(root);
  expect(report.files).toEqual({
    analysed: FILES,
    skipped: { binary: 1, large: 0, unreadable: 0 },
    more: false,
  });
  // A task per file, two batches of hashes, the inventory.
  expect(report.tasks).toMatchObject({ total: FILES + 3, completed: FILES + 3, failed: [] });
  expect(report.lostWorkers).toEqual([]);
  const { recovery } = report;
  expect(recovery).toMatchObject({ signal: "SIGKILL", resultsCounted: 1 });
  expect(recovery?.recoveredBy).not.toBe(recovery?.killedAgent);
  expect(recovery?.recoveredAfterMs).toBeGreaterThan(500);
  expect(report.tasks.reassigned).toContainEqual({
    taskId: recovery?.taskId,
    from: recovery?.killedAgent,
    to: recovery?.recoveredBy,
  });
  expect(report.agents.map(({ agentId }) => agentId)).toEqual(["ada", "bob", "cleo", "dan"]);
  expect(report.agents.reduce((sum, { tasks }) => sum + tasks, 0)).toBe(FILES + 3);
  expect(report.agents.filter(({ killed }) => killed)).toHaveLength(1);
  expect(report.logs.files.map(({ file }) => file.replace(/_\d{4}-.*/, ""))).toEqual(
    expect.arrayContaining([
      "agent_activity",
      "errors",
      "message_audit",
      "performance",
      "task_history",
    ]),
  );
  expect(report.supervisor).toMatchObject({
    autonomousTasks: FILES + 3,
    coordinationEnabled: true,
    taskCompletionRate: 1,
  });
  // From the logs: every assignment, and every answer but those of the killed worker, which took the lines of
  // its last moments with it.
  const surviving = report.agents.filter(({ killed }) => !killed);
  const answers = surviving.reduce((sum, { tasks }) => sum + tasks, 0);
  expect(report.throughput.messagesSent).toBeGreaterThanOrEqual(FILES + 3 + answers);
}

/** What the second act did and undid, as the report and the disk have it. */
async function expectSecondAct({ secondAct, out }: Report): Promise<void> {
  expect(secondAct.workflow).toMatchObject({
    state: "compensated",
    steps: [
      { step: "draft", agent: "eve", state: "completed", undone: true },
      { step: "cover", agent: "finn", state: "completed", undone: true },
      { step: "publish", agent: "gus", state: "failed", undone: false },
    ],
    failure: expect.stringContaining("no folder to publish in (ENOENT)"),
    left: [],
  });
  expect(secondAct.handoff).toEqual({
    from: "eve",
    to: "finn",
    state: "completed",
    reason: "expertise_required",
  });
  expect(secondAct.change).toEqual({
    requestId: expect.stringMatching(/^CR-\d{14}-publishing$/),
    state: "completed",
    path: ["submitted", "in_review", "approved", "implementing", "testing", "completed"],
  });
  expect(await readdir(out)).not.toEqual(expect.arrayContaining(["draft.json"]));
}

function expectFindings({ findings }: Report): void {
  expect(findings.code).toMatchObject({ files: 13, functions: 12 });
  expect(findings.code.longest[0]).toEqual({
    path: "src/file12.ts",
    name: "f12",
    line: 1,
    lines: 15,
  });
  expect(findings.markdown).toMatchObject({
    files: 2,
    headings: 3,
    relativeLinks: 3,
    linksElsewhere: 1,
    fences: { sh: 1 },
    broken: [
      { path: "README.md", line: 3, target: "docs/gone.md", reason: "no such file" },
      { path: "docs/guide.md", line: 5, target: "#nowhere", reason: "no such heading" },
    ],
  });
  expect(findings.json).toMatchObject({
    files: 3,
    invalid: [{ path: "data/bad.json", line: 3, column: 1 }],
  });
  expect(findings.text).toMatchObject({ files: 4, noFinalNewline: ["run.sh"] });
  expect(findings.inventory).toMatchObject({
    files: FILES,
    duplicates: [{ bytes: 9, paths: ["same/one.txt", "same/two.txt"] }],
  });
  expect(findings.unreadable).toEqual([]);
}

eachDatabase("the demo", (database) => {
  test("finds what is there, recovers the killed task once, and takes its tables away", async () => {
    const root = await fixture();
    const cwd = await temporaryFolder();
    const finished = await runDemo([root, "--json", "--database", database.url()], cwd, SOURCE);
    const report = reportIn(finished);
    expectAllDone(report, root);
    expectFindings(report);
    await expectSecondAct(report);
    expect(finished.code).toBe(0);
    expect(report.database).toMatchObject({ file: null, kept: false });
    const { prefix } = report.database;
    for (const table of ["messages", "tasks", "agents", "migrations"]) {
      expect(await database.knex().schema.hasTable(`${prefix}${table}`)).toBe(false);
    }
  });
});

describe("the demo as a newcomer starts it, on SQLite", () => {
  test("tells people what happened, and leaves database and logs to look at", async () => {
    const root = await fixture();
    const cwd = await temporaryFolder();
    const { code, stdout, stderr } = await runDemo([root], cwd);
    expect(stderr).toMatch(/is in the middle of .*: killed \(SIGKILL\)\n\w+ has finished it/);
    expect(code).toBe(0);
    expect(stdout).toContain(
      `${FILES + 3} tasks on ${FILES} files done by 4 agents, 1 killed on the way; nothing lost.`,
    );
    expect(stdout).toContain("its result counted once.");
    expect(stderr).toContain("gus cannot publish: the plan is undone");
    expect(stdout).toMatch(
      /it is compensated, and no file is left of it\.\n +draft +eve +done, and undone\n/,
    );
    expect(stdout).toContain("eve handed its step over to finn (expertise_required): completed.");
    expect(stdout).toContain("data/bad.json:3:1");
    // Neither colours on a pipe, nor what a file's name would do to a terminal.
    expect(stdout).not.toContain("\u001b");
    const [run = ""] = await readdir(join(cwd, ".outbox-demo"));
    const place = join(cwd, ".outbox-demo", run);
    expect((await stat(join(place, "demo.sqlite"))).size).toBeGreaterThan(0);
    expect(await readdir(join(place, "logs"))).toHaveLength(5);
    const log = await readFile(join(place, "agent_communication_demo.log"), "utf8");
    expect(log).toContain("killed (SIGKILL)");
    expect(log).toContain('"report"');
  });

  test("runs compiled, too, and jq answers from its logs", async () => {
    const root = await fixture();
    const built = await temporaryFolder();
    const compiler = resolve("node_modules/typescript/bin/tsc");
    execFileSync(process.execPath, [compiler, "-p", "tsconfig.build.json", "--outDir", built]);
    await symlink(resolve("node_modules"), join(built, "node_modules"));
    await writeFile(join(built, "package.json"), '{ "type": "module" }');
    const args = [root, "--json", "--out", join(built, "out")];
    const report = reportIn(await runDemo(args, built, join(built, "demo/main.js")));
    expectAllDone(report, root);
    const outputs = report.jq.map(({ output }) => output);
    if (!hasJq) return expect(outputs).toEqual([null, null, null]);
    const [timeline, rates, perMinute] = outputs;
    expect(timeline).toContain("cancelled task_assignment");
    expect(timeline).toContain("processed task_response");
    // The four, and the three of the second act.
    expect(JSON.parse(rates ?? "")).toHaveLength(7);
    const sent = (perMinute ?? "").split("\n").map((line) => Number(line.split("\t")[1]));
    expect(sent.reduce((sum, n) => sum + n, 0)).toBe(report.throughput.messagesSent);
  });

  test("Ctrl-C stops everything, and says where things are", async () => {
    const demo = startDemo([await fixture()], await temporaryFolder());
    await demo.said("killed (SIGKILL)");
    const children = childrenOf(demo.pid);
    expect(children.length).toBeGreaterThanOrEqual(3);
    demo.kill("SIGINT");
    const { code, stdout, stderr } = await demo.finished;
    expect(stderr).toMatch(
      /Stopped\. The agents are stopped, too\.\n {2}database .*demo\.sqlite\n {2}logs /,
    );
    expect([code, stdout]).toEqual([130, ""]);
    await until(() => children.every((pid) => !isRunning(pid)));
  });

  test("Ctrl-C while the first tasks are given away stops everything", async () => {
    const demo = startDemo([await fixture()], await temporaryFolder());
    await demo.said("each in a process of its own");
    const children = childrenOf(demo.pid);
    demo.kill("SIGINT");
    const { code, stderr } = await demo.finished;
    expect(stderr).toContain("Stopped. The agents are stopped, too.");
    expect(code).toBe(130);
    await until(() => children.every((pid) => !isRunning(pid)));
  });

  test("Ctrl-C while it opens its database begins nothing, and leaves nothing", TIMED, async () => {
    const cwd = await temporaryFolder();
    const demo = startDemo([await fixture()], cwd);
    // The folder of its run is there before it listens for signals, the file after that.
    await until(
      async () => {
        const [run = ""] = await readdir(join(cwd, ".outbox-demo"));
        return stat(join(cwd, ".outbox-demo", run, "demo.sqlite"));
      },
      { everyMs: 1 },
    );
    demo.kill("SIGINT");
    const { code, stdout, stderr } = await demo.finished;
    expect([code, stdout, stderr]).toEqual([130, "", "Stopped. Nothing was begun.\n"]);
    expect(await readdir(cwd)).toEqual([]);
  });

  test("its workers end when it is killed itself", async () => {
    const demo = startDemo([await fixture()], await temporaryFolder());
    await demo.said("killed (SIGKILL)");
    const children = childrenOf(demo.pid);
    expect(children.length).toBeGreaterThanOrEqual(3);
    demo.kill("SIGKILL");
    await until(() => children.every((pid) => !isRunning(pid)));
  });
});

describe("the demo's refusals are one line with a remedy", () => {
  const refused = async (args: readonly string[]) => {
    const cwd = await temporaryFolder();
    await writeFile(join(cwd, "file.txt"), "x");
    const { code, stdout, stderr } = await runDemo(args, cwd);
    expect(stdout).toBe("");
    expect(await readdir(cwd)).toEqual(["file.txt"]);
    return { code, stderr };
  };

  test.each([
    ["no such folder", ["nowhere"], /there is no folder .*nowhere; name one/],
    ["a file", ["file.txt"], /file\.txt is a file; name the folder it is in/],
    ["a place that cannot be written", ["--out", "file.txt/out"], /cannot write to .*--out/],
    ["no database", ["--database", "postgres://u:p@127.0.0.1:1/x"], /SERVICE|reach|running/i],
    ["a URL of another kind", ["--database", "mysql://x"], /mysql:\/\/x.*postgres:\/\//],
  ])("%s", async (_, args, message) => {
    const { code, stderr } = await refused(args);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(code).toBe(1);
  });

  test("an empty folder", async () => {
    const empty = await temporaryFolder();
    const { code, stderr } = await refused([empty]);
    expect(stderr).toMatch(/holds no text files; name a folder/);
    expect(code).toBe(1);
  });

  test.each([
    ["an unknown option", ["--fast"], /--fast/],
    ["two folders", ["a", "b"], /one folder at a time/],
    ["a bad number", ["--max-files", "many"], /--max-files takes 1 to 2000, got "many"/],
    ["a database in memory", ["--database", "sqlite::memory:"], /cannot be shared/],
    ["acts without a terminal", ["--interactive"], /needs a terminal/],
  ])("%s is a wrong command line", async (_, args, message) => {
    const { code, stderr } = await refused(args);
    expect(stderr).toMatch(message);
    expect(stderr).toContain("--help");
    expect(code).toBe(2);
  });

  test("help comes with examples", async () => {
    const { code, stdout } = await runDemo(["--help"], await temporaryFolder());
    expect(stdout).toMatch(/^Usage:[\s\S]*Examples/);
    expect(code).toBe(0);
  });
});

test("the jq commands are recipes of the README", () => {
  const recipes = JQ_RECIPES.map(({ command }) => command);
  for (const { command } of jqCommands("corr_1")) expect(recipes).toContain(command);
});

describe("the quick start", () => {
  const source = resolve("demo/quickstart.ts");

  test("is at most 20 lines of code, with its import on one line", async () => {
    const text = await readFile(source, "utf8");
    const code = text.split("\n").filter((line) => line.trim() !== "" && !/^\s*\/\//.test(line));
    expect(code.length).toBeLessThanOrEqual(20);
    expect(text).toMatch(/^import .* from "\.\.\/lib\/index\.ts";$/m);
  });

  test("runs as it stands, again and again", async () => {
    const cwd = await temporaryFolder();
    for (const id of [1, 2]) {
      const { code, stdout, stderr } = await runDemo([], cwd, source);
      expect(stderr).toBe("");
      expect(stdout).toBe(`ORDER_PLACED: { id: ${id}, item: 'kite' }\n`);
      expect(code).toBe(0);
    }
  });
});
