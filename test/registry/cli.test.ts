import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";
import { mailbox } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

eachDatabase("the command line's cards of agents", (database) => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "outbox-cards-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const cli = (...argv: string[]) => runCli(argv, { database: database.url() });

  const card = {
    name: "Mapping",
    domain: "Data\nmapping",
    location: "src/agents/mapping.ts",
    version: "1.0.0",
    capabilities: { mapColumns: "matches columns by their names" },
    limitations: ["no PDF"],
    sla: { targetMs: 3_000, maxMs: 10_000 },
  };

  const register = (id: string, capabilities: string, value: object) =>
    cli("agents", "register", id, "-c", capabilities, "--card", JSON.stringify(value));

  it("greets as Markdown, with what is alive of its dependencies", async () => {
    const [id, other] = [mailbox("agent"), mailbox("other")];
    await cli("agents", "register", other);
    const dependencies = [other, "gone"];
    const { code, err } = await register(id, "mapColumns,python@3.12", { ...card, dependencies });
    expect({ code, err }).toEqual({ code: 0, err: "" });
    const greeting = (await cli("agents", "greet", id)).out;
    expect(greeting).toBe(
      [
        "# Mapping",
        "",
        "- **Domain:** Data mapping",
        "- **Location:** src/agents/mapping.ts",
        "- **Status:** Active (idle)",
        "- **Capabilities:**",
        "  - mapColumns: matches columns by their names",
        "  - python@3.12",
        "- **Dependencies:**",
        `  - ${[`${other} (alive)`, "gone (down)"].sort().join("\n  - ")}`,
        "",
        "Ready to assist with mapColumns, python.",
        "",
      ].join("\n"),
    );
    expect((await cli("agents", "greet", id, "--json")).json()).toEqual({
      agent_id: id,
      greeting,
    });
    expect((await cli("agents", "show", id)).out).toMatch(/dependencies down +gone/);
    const shown = await cli("agents", "card", id, "--json");
    expect(shown.json()).toMatchObject({
      agent_id: id,
      capabilities: ["mapColumns", "python"],
      dependencies_down: ["gone"],
      card: { ...card, lifecycle: "active", requireDependencies: false },
    });
    // What is shown can be registered as it is.
    const again = await register(id, "mapColumns,python@3.12", shown.json<{ card: object }>().card);
    expect(again.code).toBe(0);
    expect((await cli("agents", "history", id, "--cards", "--json")).json()).toHaveLength(1);
  });

  it("greets an agent without a card, and finds none that is not there", async () => {
    const id = mailbox("agent");
    await cli("agents", "register", id);
    expect((await cli("agents", "greet", id)).out).toMatch(
      /^# .*agent.*\n\n- \*\*Domain:\*\* not stated\n[\s\S]*Ready to assist with any task\.\n$/,
    );
    expect((await cli("agents", "card", id)).out).toBe(`${id} says nothing of itself.\n`);
    expect((await cli("agents", "changelog", id)).out).toBe("No changes yet.\n");
    for (const verb of ["greet", "card", "doc", "changelog", "history"]) {
      const { code, err } = await cli("agents", verb, "never-seen");
      expect({ code, told: err.startsWith("error: ") }, verb).toEqual({ code: 4, told: true });
    }
  });

  it("writes AGENT.md, and notices when it is out of date", async () => {
    const [id, file] = [mailbox("agent"), join(folder, "AGENT.md")];
    await register(id, "mapColumns", card);
    expect((await cli("agents", "doc", id, "--out", file)).out).toBe(`Wrote ${file}.\n`);
    const text = await readFile(file, "utf8");
    expect(text).toMatch(
      /^---\nagent_id: .*\ncard_hash: [0-9a-f]{64}\nversion: "1.0.0"\n---\n\n# Mapping\n/,
    );
    expect(text).toContain("## Limitations\n\n- no PDF\n");
    expect((await cli("agents", "doc", id)).out).toBe(text);
    const check = () => cli("agents", "doc", id, "--check", file);
    expect(await check()).toMatchObject({ code: 0, out: `${file} is up to date.\n` });
    // What people write around the hash does not matter.
    await writeFile(file, text.replace("---\n", "---\nowner: us\n").replace("# Mapping", "# M"));
    expect((await check()).code).toBe(0);
    await register(id, "mapColumns", { ...card, limits: { memoryMb: 500 } });
    const stale = await check();
    expect(stale).toMatchObject({ code: 1, out: expect.stringContaining("is out of date") });
    expect((await cli("agents", "doc", id, "--check", file, "--json")).json()).toMatchObject({
      current: false,
    });
    await writeFile(file, "# no front matter\n");
    expect((await check()).code).toBe(1);
    expect((await cli("agents", "doc", id, "--check", join(folder, "none.md"))).code).toBe(1);
  });

  it("prints what changed as messages of commits", async () => {
    const id = mailbox("agent");
    await register(id, "mapColumns,cobol,python@3.11", card);
    await register(id, "mapColumns,python@3.12", {
      ...card,
      version: "1.1.0",
      limitations: [],
      sla: { targetMs: 3_000, maxMs: 8_000 },
      errorHandling: "retries twice",
    });
    await register(id, "mapColumns,python@3.12,sql", {
      ...card,
      version: "1.1.0",
      limitations: [],
      sla: { targetMs: 3_000, maxMs: 8_000 },
      errorHandling: "retries twice",
    });
    const { out } = await cli("agents", "changelog", id);
    expect(out.replace(/of \d{4}-\d\d-\d\d/, "of DAY")).toBe(
      [
        "[AGENT-UPDATE] [Mapping] - Added capability sql (1.1.0)",
        "",
        "- Added: capability sql",
        "",
        "Affects: capabilities",
        "Breaking: no",
        "",
        "[AGENT-UPDATE] [Mapping] - 7 changes of DAY (1.1.0)",
        "",
        "- Added: capability python@3.12",
        "- Removed: capability cobol",
        "- Removed: capability python@3.11",
        "- Fixed: limitation no PDF",
        "- Updated: version from 1.0.0 to 1.1.0",
        "- Updated: sla.maxMs from 10000 to 8000",
        "- Added: errorHandling retries twice",
        "",
        "Affects: capabilities, limitations, version, sla, errorHandling",
        "Breaking: yes (capability cobol; capability python@3.11)",
        "",
      ].join("\n"),
    );
  });

  it("lists the history, drains with a wait, and finds by requirements", TIMED, async () => {
    const [id, skill] = [mailbox("agent"), mailbox("skill")];
    await register(id, `${skill}@2.1,memory_gb=64`, { lifecycle: "development" });
    expect((await cli("agents", "drain", id, "--wait-ms", "1000")).out).toContain(
      "gets no new tasks and has none left",
    );
    const history = await cli("agents", "history", id);
    expect(history.out).toMatch(
      /^SEQ +WHEN.*\n *\d+ +now +draining.*\n *\d+ +\S+.* +registered +card/,
    );
    await cli("agents", "resume", id);
    const find = (...argv: string[]) => cli("agents", "find", `${skill} >= 2`, ...argv);
    expect((await find()).out).toBe("No agent can take such a task now.\n");
    expect((await find("--development")).out).toMatch(new RegExp(`^AGENT .*\n${id} +0/1 `));
    const json = (await find("--development", "--prefer", "memory_gb > 1", "--json")).json();
    expect(json).toMatchObject([
      {
        agent_id: id,
        capability_details: [
          { name: "memory_gb", versions: [], values: [64] },
          { name: skill, versions: ["2.1"], values: [] },
        ],
      },
    ]);
    expect((await find("--strategy", "sticky")).code).toBe(2);
  });
});
