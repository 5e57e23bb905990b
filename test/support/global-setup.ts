import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { connect } from "../../lib/store/connect.ts";
import { migrate } from "../../lib/store/migrate.ts";
import { type DialectName, postgresAdmin, type TestRun } from "./database-server.ts";
import { createPostgres, executablePostgres, installedPostgres } from "./postgres-server.ts";

declare module "vitest" {
  interface ProvidedContext {
    run: TestRun;
  }
}

const NAMES: Record<DialectName, string> = {
  sqlite: "SQLite",
  postgres: "PostgreSQL",
  mssql: "SQL Server",
};
const ALL = Object.keys(NAMES) as DialectName[];

/** Starts what the tests need once, makes a migrated template of each database, and says what runs. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const asked = askedDialects();
  const skipped: Partial<Record<DialectName, string>> = {};
  const folder = await mkdtemp(join(tmpdir(), "agent-outbox-test-"));
  // The account that PostgreSQL runs under must be able to enter it.
  await chmod(folder, 0o711);
  const release = removeAtExit(folder);
  const undo: (() => Promise<void>)[] = [];
  const teardown = async () => {
    for (const step of undo.reverse()) await step();
    await rm(folder, { recursive: true, force: true });
    release();
  };

  try {
    const run: TestRun = { id: randomBytes(4).toString("hex"), folder, dialects: [] };
    for (const dialect of ALL) {
      if (!asked.includes(dialect)) skipped[dialect] = "not in DIALECTS";
    }
    if (asked.includes("sqlite")) run.dialects.push("sqlite");
    if (asked.includes("postgres")) {
      const started = await startPostgres(folder);
      if (started === undefined) {
        skipped.postgres = `no server package for ${process.platform}-${process.arch}, set TEST_POSTGRES_URL`;
      } else {
        run.dialects.push("postgres");
        Object.assign(run, started.run);
        undo.push(started.stop, () => postgresAdmin(run).dropAll());
      }
    }
    if (asked.includes("mssql")) {
      const url = process.env.TEST_MSSQL_URL;
      if (url === undefined || url === "") {
        skipped.mssql = "TEST_MSSQL_URL is not set";
      } else {
        run.dialects.push("mssql");
        run.mssqlUrl = url;
      }
    }
    refuseUnavailable(skipped);
    await makeTemplates(run);
    project.provide("run", run);
    announce(run, skipped);
  } catch (error) {
    await teardown();
    throw error;
  }
  return teardown;
}

function askedDialects(): DialectName[] {
  const names = (process.env.DIALECTS ?? ALL.join(",")).split(",").map((name) => name.trim());
  const unknown = names.filter((name) => !(name in NAMES));
  if (unknown.length > 0) {
    throw new Error(`DIALECTS names ${unknown.join(", ")}; there are ${ALL.join(", ")}`);
  }
  return names as DialectName[];
}

/** A database that was asked for by name and cannot run is a failure, not a skip. */
function refuseUnavailable(skipped: Partial<Record<DialectName, string>>): void {
  if (process.env.DIALECTS === undefined) return;
  for (const dialect of askedDialects()) {
    if (skipped[dialect] !== undefined) {
      throw new Error(`${NAMES[dialect]} was asked for in DIALECTS: ${skipped[dialect]}`);
    }
  }
}

async function startPostgres(folder: string) {
  const installed = installedPostgres();
  const executables =
    installed === undefined ? undefined : await executablePostgres(installed, folder);
  const external = process.env.TEST_POSTGRES_URL;
  if (external !== undefined && external !== "") {
    return { run: { postgresUrl: external, executables }, stop: async () => {} };
  }
  if (executables === undefined) return undefined;
  const server = await createPostgres(executables, join(folder, "postgres"));
  await server.start();
  return { run: { postgresUrl: server.url, executables }, stop: () => server.dispose() };
}

async function makeTemplates(run: TestRun): Promise<void> {
  if (run.dialects.includes("sqlite")) {
    run.sqliteTemplate = join(run.folder, "template.sqlite");
    await migrateAt(`sqlite:${run.sqliteTemplate}`);
  }
  if (run.dialects.includes("postgres")) {
    const admin = postgresAdmin(run);
    run.postgresTemplate = `outbox_test_${run.id}_template`;
    await migrateAt(await admin.create(run.postgresTemplate));
  }
}

async function migrateAt(url: string): Promise<void> {
  const { knex } = connect(url);
  try {
    await migrate(knex);
  } finally {
    await knex.destroy();
  }
}

/**
 * Removes the folder when this process is gone, however it went: the shell waits for the end of a pipe, in a
 * session that Ctrl-C does not reach. It tries for a while, because a server in it may still be stopping.
 */
function removeAtExit(folder: string): () => void {
  const script = `read -r _
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  rm -rf "$0" 2>/dev/null && exit
  sleep 0.25
done`;
  const keeper = spawn("/bin/sh", ["-c", script, folder], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  keeper.on("error", () => {});
  keeper.stdin.on("error", () => {});
  keeper.unref();
  return () => keeper.stdin.end();
}

function announce(run: TestRun, skipped: Partial<Record<DialectName, string>>): void {
  const running = run.dialects.map((dialect) =>
    dialect === "postgres" && process.env.TEST_POSTGRES_URL
      ? "PostgreSQL (TEST_POSTGRES_URL)"
      : NAMES[dialect],
  );
  const missing = ALL.filter((dialect) => skipped[dialect] !== undefined).map(
    (dialect) => `${NAMES[dialect]} (${skipped[dialect]})`,
  );
  console.log(
    `Databases under test: ${running.join(", ")}${missing.length > 0 ? `; not: ${missing.join(", ")}` : ""}`,
  );
}
