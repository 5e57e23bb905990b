import { mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { spawnScript } from "../support/processes.ts";

const document = await readFile("docs/testing.md", "utf8");
const blocks = [...document.matchAll(/^## (.+)\n[\s\S]*?^```ts\n([\s\S]*?)^```/gm)].map(
  ([, title = "", code = ""]) => [title, code] as const,
);

describe("the examples of docs/testing.md run", () => {
  it.each(blocks.filter(([, code]) => !code.includes('from "vitest"')))("%s", async (_, code) => {
    const folder = await mkdtemp(join(tmpdir(), "outbox-testing-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    await symlink(resolve("node_modules"), join(folder, "node_modules"));
    await writeFile(join(folder, "package.json"), '{ "type": "module" }');
    const script = join(folder, "example.ts");
    const kit = resolve("lib/testing/index.ts");
    // An example leaves its world open where the text has nothing to say about it.
    const end = code.includes("await using") ? "" : "\nprocess.exit(0);\n";
    await writeFile(script, code.replaceAll("agent-outbox/testing", kit) + end);
    const run = spawnScript(script, [], {}, { cwd: folder });
    expect(await run.exited, run.output()).toMatchObject({ code: 0 });
  });

  it("are all of them", () => {
    expect(blocks.length).toBe([...document.matchAll(/^```ts$/gm)].length);
  });
});
