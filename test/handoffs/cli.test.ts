import { beforeEach, expect, it } from "vitest";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";
import { stage, wipe } from "./stage.ts";

eachDatabase("handoffs on the command line", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
    await on.agent("upload");
    await on.agent("mapping", ["map=2"]);
  });
  const cli = (...argv: string[]) => runCli(argv, { database: database.url() });

  it("offers, shows, accepts, returns and completes", async () => {
    expect((await cli("handoffs", "ls")).out).toContain("No handoffs.");
    const task = await on.boss.assignTask({ taskType: "t", requiredCapabilities: ["x"] });
    const offered = await cli(
      ...["handoffs", "offer", "upload", "--capability", "map >= 2", "--task", task.taskId],
      ...["--id", "h-1", "--state", '{"page":3}', "--deliverables", '{"file_id":"abc"}'],
      ...["--done", "read it", "--warning", "slow", "--action", "go on", "--priority", "high"],
      ...["--effort", "<5 seconds"],
    );
    expect(offered).toMatchObject({ code: 0 });
    expect(offered.out).toContain("Handoff h-1 is offered, to mapping.");
    const listed = await cli("handoffs", "ls", "--state", "offered", "--json");
    expect(listed.json<object[]>()).toMatchObject([
      { handoff_id: "h-1", from: "upload", to: "mapping", current_state: { page: 3 } },
    ]);
    expect((await cli("handoffs", "ls")).out).toMatch(/h-1 +upload +mapping +offered/);
    const shown = await cli("handoffs", "show", "h-1");
    expect(shown.out).toMatch(/found by +map >= 2/);
    expect(shown.out).toContain('"file_id": "abc"');
    const sheet = await cli("handoffs", "show", "h-1", "--md");
    expect(sheet.out).toMatch(/^### 🔄 Agent Handoff\n\n\*\*From\*\*: upload\n/);
    expect(sheet.out).toContain("**Priority**: High");

    const wrong = await cli("handoffs", "accept", "h-1", "upload");
    expect(wrong.code).not.toBe(0);
    expect(wrong.err).toContain(`was offered to "mapping", not "upload"`);
    expect((await cli("handoffs", "accept", "h-1", "mapping", "--note", "mine")).code).toBe(0);
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "mapping" });
    const returned = await cli("handoffs", "return", "h-1", "--reason", "broken", "--json");
    expect(returned.json()).toMatchObject({ state: "returned", note: "broken" });
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "upload" });

    await cli("handoffs", "offer", "upload", "mapping", "--id", "h-2", "--quiet");
    expect((await cli("handoffs", "reject", "h-2", "mapping")).out).toContain("is rejected");
    await cli("handoffs", "offer", "upload", "mapping", "--id", "h-3");
    expect((await cli("handoffs", "withdraw", "h-3", "upload")).out).toContain("is withdrawn");
    await cli("handoffs", "offer", "upload", "mapping", "--id", "h-4");
    await cli("handoffs", "accept", "h-4", "mapping");
    expect((await cli("handoffs", "complete", "h-4", "mapping")).out).toContain("is completed");
    expect((await cli("handoffs", "show", "none")).code).toBe(4);
  });
});
