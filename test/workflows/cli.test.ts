import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";
import { boom, emptied } from "./stage.ts";

eachDatabase("workflows on the command line", (database) => {
  const cli = (line: string[]) => runCli(["workflows", ...line], { database: database.url() });

  it("are started from a file, shown, signaled, waited for and listed", async () => {
    const on = await emptied(database.knex());
    const folder = await mkdtemp(join(tmpdir(), "outbox-workflow-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const file = join(folder, "w.json");
    const steps = [
      { stepId: "parse", taskType: "parse", inputs: { file: "$.input.file" } },
      { stepId: "approve", kind: "signal", dependsOn: ["parse"] },
      { stepId: "sync", taskType: "sync", dependsOn: ["parse", "approve"] },
    ];
    await writeFile(file, JSON.stringify({ workflowType: "upload", mode: "dag", steps }));
    const start = ["start", `@${file}`, "--id", "w", "--input", '{"file":"a"}'];
    expect((await cli(start)).out).toBe("Workflow w is running.\n");
    expect((await cli(start)).out).toBe("There already: workflow w is running.\n");
    const seen: unknown[] = [];
    await on.settle({ parse: (parameters) => seen.push(parameters) });
    expect(seen).toEqual([{ file: "a" }]);

    const shown = await cli(["show", "w"]);
    expect(shown.out).toMatch(
      /parse {2}completed\n├─ approve {2}running\n└─ sync {2}pending {2}after approve too/,
    );
    expect(shown.out).toMatch(/approve\s+signal approve\s+running/);
    const why = await cli(["why", "w"]);
    expect(why.out).toContain('the signal "approve" has not come');
    expect(why.out).toContain("1 of the steps before it have not ended: approve");
    expect((await cli(["wait", "w", "--wait-ms", "1"])).code).toBe(1);

    const signal = ["signal", "w", "approve", "--data", '{"by":"eve"}'];
    expect((await cli(signal)).out).toBe("Signaled approve.\n");
    expect((await cli(signal)).out).toContain("had come before");
    const waiting = cli(["wait", "w", "--json"]);
    await on.settle();
    const done = await waiting;
    expect(done.code).toBe(0);
    expect(done.json()).toMatchObject({
      workflow_id: "w",
      state: "completed",
      input: { file: "a" },
      result: { approve: { by: "eve" }, sync: { done: "sync" } },
    });
    expect((await cli(["ls", "--json"])).json()).toMatchObject([
      { workflow_id: "w", workflow_type: "upload", state: "completed" },
    ]);
    expect((await cli(["ls", "--state", "failed"])).out).toBe("No workflows.\n");
    expect((await cli(["show", "nobody"])).code).toBe(4);
  });

  it("are paused, resumed, tried again and canceled", async () => {
    const on = await emptied(database.knex());
    await on.start([{ stepId: "a", taskType: "a" }], { workflowId: "p" });
    expect((await cli(["pause", "p"])).out).toBe("Workflow p is paused.\n");
    expect((await cli(["resume", "p"])).out).toBe("Workflow p is running.\n");
    await on.settle({ a: boom });
    const shown = await cli(["show", "p"]);
    expect(shown.out).toContain("broken: boom");
    expect(shown.out).toContain("error    a: boom");
    expect((await cli(["wait", "p"])).code).toBe(1);
    expect((await cli(["retry", "p", "--from-step", "a"])).out).toBe("Workflow p is running.\n");
    const canceled = await cli(["cancel", "p", "--reason", "no longer", "--compensate", "--json"]);
    expect(canceled.json()).toMatchObject({ state: "canceled", failure: { message: "no longer" } });
    expect((await cli(["retry", "p"])).err).toContain("it is canceled");
  });
});
