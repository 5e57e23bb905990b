import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import * as library from "../lib/index.ts";
import { JQ_RECIPES } from "./observability/jq-recipes.ts";
import { spawnScript } from "./support/processes.ts";

const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");

/** A block that imports what it uses stands alone, but for the database that it opens. */
const declared = (code: string): string =>
  /\bdatabase,$/m.test(code) ? `declare const database: string;\n${code}` : code;

const section = (marker: string): string =>
  readme.split(`<!-- ${marker} -->`)[1]?.split("\n## ")[0] ?? "";

/** The texts; pictures and results lie beside them. */
const documentsIn = async (folder: string): Promise<string[]> =>
  (await readdir(folder)).filter((file) => file.endsWith(".md")).sort();

describe("README", () => {
  it("lists every error code with its remedy", () => {
    const rows = [...section("errors").matchAll(/^\| `(\w+)` \| (yes|no) \| (.+) \|$/gm)];
    const listed = Object.fromEntries(
      rows.map(([, code, again, remedy]) => [code, { retryable: again === "yes", remedy }]),
    );
    const known = Object.fromEntries(
      Object.entries(library.ERROR_CODES).map(([code, { retryable, remedy }]) => [
        code,
        { retryable, remedy },
      ]),
    );
    expect(listed).toEqual(known);
  });

  it("names for each guarantee the files whose tests prove it, and no others", async () => {
    const rows = [...readme.matchAll(/^\| (G\d+) \| .+ \| (.+) \|$/gm)];
    expect(rows.map(([, name]) => name)).toEqual(Array.from({ length: 13 }, (_, n) => `G${n + 1}`));
    const files = (await readdir("test", { recursive: true })).filter((file) =>
      file.endsWith(".test.ts"),
    );
    const tests = await Promise.all(
      files.sort().map(async (file) => ({
        file: file.replace(".test.ts", ""),
        text: await readFile(join("test", file), "utf8"),
      })),
    );
    for (const [, name, listed] of rows) {
      const titled = new RegExp(
        `\\b(?:it|describe)(?:\\.\\w+(?:\\([^)]*\\))?)*\\(\\s*["\`](?:G\\d+, )*${name}[:,]`,
      );
      const proving = tests
        .filter(({ text }) => titled.test(text))
        .map(({ file }) => `\`${file}\``);
      expect(proving.length, name).toBeGreaterThan(0);
      expect(listed, name).toBe(proving.join(", "));
    }
  });

  it("quotes the jq recipes that are tested", () => {
    for (const { command } of JQ_RECIPES) expect(section("recipes")).toContain(command);
  });

  it("shows the quick start as it is, in at most 20 lines of code, and it runs", async () => {
    const shown = /<!-- quickstart[^>]*-->\n```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
    const file = await readFile(new URL("../demo/quickstart.ts", import.meta.url), "utf8");
    expect(shown.trim()).toBe(file.replace("../lib/index.ts", "agent-outbox").trim());
    const code = shown.split("\n").filter((line) => line.trim() !== "" && !/^\s*\/\//.test(line));
    expect(code.length).toBeLessThanOrEqual(20);
    const folder = await mkdtemp(join(tmpdir(), "outbox-quickstart-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    await symlink(resolve("node_modules"), join(folder, "node_modules"));
    const script = join(folder, "quickstart.ts");
    await writeFile(script, file.replace("../lib/index.ts", resolve("lib/index.ts")));
    await writeFile(join(folder, "package.json"), '{ "type": "module" }');
    const run = spawnScript(script, [], {}, { cwd: folder });
    expect(await run.exited).toMatchObject({ code: 0 });
    expect(run.output()).toContain("ORDER_PLACED");
  });

  it("shows code that compiles under strict", async () => {
    const documents = await Promise.all(
      (await documentsIn("docs")).map((file) => readFile(join("docs", file), "utf8")),
    );
    const blocks = [readme, ...documents].flatMap((text) =>
      [...text.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code]) => code ?? ""),
    );
    expect(blocks.length).toBeGreaterThan(10);
    const folder = await mkdtemp(join(tmpdir(), "outbox-readme-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    await symlink(resolve("node_modules"), join(folder, "node_modules"));
    await writeFile(join(folder, "package.json"), '{ "type": "module" }');
    for (const [n, code] of blocks.entries()) {
      // What a block takes from those before it, unless it declares a name of its own.
      const free =
        'import { type Outbox, openOutbox } from "agent-outbox";\n' +
        'export async function block(outbox: Outbox, knex: Outbox["knex"], database: string, queue: Outbox["queue"]) {';
      const whole = /^import /m.test(code) ? declared(code) : `${free} {\n${code}\n} }\n`;
      await writeFile(join(folder, `block-${n + 1}.ts`), whole);
    }
    const config = {
      extends: resolve("tsconfig.json"),
      compilerOptions: {
        paths: {
          "agent-outbox": [resolve("lib/index.ts")],
          "agent-outbox/testing": [resolve("lib/testing/index.ts")],
        },
        noUnusedLocals: false,
        noUnusedParameters: false,
      },
      include: ["block-*.ts"],
    };
    await writeFile(join(folder, "tsconfig.json"), JSON.stringify(config));
    const errors = await new Promise((done) =>
      execFile(resolve("node_modules/.bin/tsc"), ["-p", folder], (error, stdout, stderr) =>
        done(error === null ? "" : `${stdout}${stderr}` || error.message),
      ),
    );
    expect(errors).toBe("");
  });

  it("the other documents are there, and links to files lead somewhere", async () => {
    for (const document of [
      "README.md",
      "ARCHITECTURE.md",
      "DEPLOYMENT.md",
      "CONTRIBUTING.md",
      "CHANGELOG.md",
      ...(await documentsIn("docs")).map((file) => join("docs", file)),
    ]) {
      const text = await readFile(document, "utf8");
      for (const [, link] of text.matchAll(/\]\((?!https?:|#)([^)#]+)/g)) {
        const target = join(dirname(document), String(link));
        await expect(readFile(target), `${document}: ${link}`).resolves.toBeTruthy();
      }
    }
  });
});

describe("the public names", () => {
  it("are these and no others", () => {
    expect(Object.keys(library).sort()).toMatchInlineSnapshot(`
      [
        "AgentCommunicationError",
        "AgentMessage",
        "AgentRegistry",
        "AgentRole",
        "AgentRunner",
        "AlreadyExists",
        "CircuitOpen",
        "ClaimedMessage",
        "DEAD_LETTER_REASONS",
        "DEFAULT_PRIORITY",
        "DEFAULT_RETRY_POLICY",
        "DELIVERY_MODES",
        "ERROR_CODES",
        "FileClaimCheckStore",
        "FileLogger",
        "GateFailed",
        "HANDOFF_STATES",
        "LeaseLost",
        "LockLost",
        "LockTaken",
        "MESSAGE_KINDS",
        "MessagePriority",
        "MessageQueueManager",
        "MessageTimeout",
        "MessageType",
        "Observers",
        "Outbox",
        "PayloadTooLarge",
        "PermissionDenied",
        "QueueFull",
        "RETRY_POLICIES",
        "RateLimited",
        "STEP_STATES",
        "ServiceUnavailable",
        "SignatureInvalid",
        "SupervisorCoordinator",
        "TASK_OUTCOMES",
        "TASK_STATES",
        "TimeoutError",
        "UnknownCommandError",
        "UnknownRecipient",
        "ValidationFailed",
        "VersionConflict",
        "WORKFLOW_FAILURES",
        "WORKFLOW_STATES",
        "agentDocCurrent",
        "auditExists",
        "channelTopology",
        "configFromEnv",
        "connect",
        "coordination",
        "coordinationSchema",
        "createTransferTool",
        "disableFileLogging",
        "doctor",
        "enableFileLogging",
        "errorRecord",
        "errorReport",
        "errorReportSchema",
        "errorsAreStructured",
        "getFileLogger",
        "handoffMarkdown",
        "heartbeat",
        "heartbeatSchema",
        "hubTopology",
        "kindOf",
        "knexConfig",
        "listLogFiles",
        "maskedConfig",
        "migrate",
        "migrateDown",
        "migrationSql",
        "migrationStatus",
        "normalType",
        "openOutbox",
        "priorityName",
        "priorityValue",
        "redactUrl",
        "relay",
        "relayTargets",
        "requiredContext",
        "schemaGate",
        "schemaSql",
        "stagesComplete",
        "statusUpdate",
        "statusUpdateSchema",
        "tailLogs",
        "taskRequest",
        "taskRequestSchema",
        "taskResponse",
        "taskResponseSchema",
        "taskStateOf",
        "toA2aState",
        "toMcpStatus",
        "withinSla",
      ]
    `);
  });
});
