import { describe, expect, it } from "vitest";
import { SCENARIOS } from "../../demo/scenarios/index.ts";
import { runDemo, temporaryFolder } from "../demo/support.ts";
import { eachDatabase } from "../support/databases.ts";

describe("npm run demo -- --scenario", () => {
  it("lists what there is", async () => {
    const { code, stdout } = await runDemo(["--list"], await temporaryFolder());
    expect(code).toBe(0);
    const names = [...stdout.matchAll(/^ {2}(\S+) {2,}\S/gm)].map(([, name]) => name);
    expect(names).toEqual(SCENARIOS.map(({ name }) => name));
    expect(new Set(names).size).toBe(names.length);
  });

  it("tells a story, and leaves nothing behind", async () => {
    const cwd = await temporaryFolder();
    const { code, stdout, stderr } = await runDemo(["--scenario", "incident"], cwd);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/^SentinelOps: .*\n\n/);
    expect(stdout).toMatch(/^ +\d\.\d\d s {2}triage-agent +transfer_to_analysis: /m);
    expect(stdout.trimEnd().split("\n").at(-1)).toContain("incident_response is completed");
    expect(stdout).not.toContain("\u001b");
  });

  it("prints what came of it as JSON, and the story beside it", async () => {
    const cwd = await temporaryFolder();
    const { code, stdout, stderr } = await runDemo(["--scenario", "upload", "--json"], cwd);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ told: ["user-ana", "user-ben", "user-caro"] });
    expect(stderr).toContain("content-module");
  });

  it.each([
    ["an unknown one", ["--scenario", "lunch"], /--scenario takes upload, .*, got "lunch"/],
    ["one with a folder", ["--scenario", "upload", "src"], /needs no folder, got src/],
  ])("%s is a wrong command line", async (_, args, message) => {
    const { code, stdout, stderr } = await runDemo(args, await temporaryFolder());
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(message);
  });
});

eachDatabase("a scenario in a database of the caller's", (database) => {
  it("has tables of its own there, and takes them away", async () => {
    const args = ["--scenario", "upload", "--database", database.url()];
    const { code, stderr } = await runDemo(args, await temporaryFolder());
    expect([code, stderr]).toEqual([0, ""]);
    const names = await database
      .knex()
      .select("name")
      .from(
        database.dialect === "sqlite"
          ? "sqlite_master"
          : database.knex().raw("(SELECT table_name AS name FROM information_schema.tables) t"),
      )
      .pluck("name");
    expect(names).toContain("outbox_messages");
    expect(names.filter((name: string) => name.startsWith("demo_"))).toEqual([]);
    const [messages] = await database.knex()("outbox_messages").count({ n: "*" });
    expect(Number(messages?.n), "nothing was written into the tables that were there").toBe(0);
  });
});
