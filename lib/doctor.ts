import { DEFAULT_PREFIX } from "../migrations/index.ts";
import { AgentCommunicationError, ServiceUnavailable } from "./errors.ts";
import { connect, type DatabaseInput } from "./store/connect.ts";
import type { DialectName } from "./store/dialect.ts";
import { dialectFor } from "./store/dialects.ts";
import { serverChecks, tableChecks } from "./store/doctor.ts";
import type { Check, Finding, Level } from "./store/doctor-finding.ts";
import { checkMigrated, migrationStatus } from "./store/migrate.ts";
import { query, translate } from "./store/sql.ts";

/** One thing that was looked at. */
export interface DiagnosisCheck extends Finding {
  readonly check: string;
}

export interface Diagnosis {
  readonly dialect: DialectName;
  /** The worst of all checks; what the database does not tell does not count. */
  readonly level: Exclude<Level, "unknown">;
  readonly checks: readonly DiagnosisCheck[];
}

/**
 * Examines an installation: versions, migrations, indexes, settings that cost messages or speed, and what is
 * stuck. Changes nothing, and its cost does not grow with the backlog.
 *
 * @throws AgentCommunicationError when the database cannot be reached at all
 */
export async function doctor(
  database: DatabaseInput,
  options: { prefix?: string } = {},
): Promise<Diagnosis> {
  const prefix = options.prefix ?? DEFAULT_PREFIX;
  const { knex, dialect, owned } = connect(database);
  try {
    await mustAnswer(knex, dialect, prefix);
    const checks = [
      ...(await runAll(serverChecks(knex, dialect, prefix))),
      ...(await runAll([{ name: "migrations", run: () => migrations(knex, dialect, prefix) }])),
    ];
    const migrated = checks.at(-1)?.level === "ok";
    if (migrated) checks.push(...(await runAll(tableChecks(knex, dialect, prefix))));
    return { dialect, level: worst(checks), checks };
  } finally {
    if (owned) await knex.destroy();
  }
}

type Database = ReturnType<typeof connect>["knex"];

async function mustAnswer(knex: Database, dialect: DialectName, prefix: string): Promise<void> {
  try {
    await query(knex, "SELECT 1 AS one");
  } catch (error) {
    const translated = translate(dialectFor(dialect, prefix), error);
    throw translated === error
      ? new ServiceUnavailable(`the database did not answer: ${String(error)}`, { cause: error })
      : translated;
  }
}

async function migrations(knex: Database, dialect: DialectName, prefix: string): Promise<Finding> {
  const status = await migrationStatus(knex, { prefix });
  const names = (state: string) =>
    status.filter((row) => row.state === state).map(({ name }) => name);
  const [pending, newer] = [names("pending"), names("unknown")];
  if (newer.length > 0) {
    return {
      level: "problem",
      found: `applied by a newer version: ${newer.join(", ")}`,
      remedy: "Upgrade agent-outbox here: `npm install agent-outbox@latest`.",
    };
  }
  if (pending.length > 0) {
    // To a user without rights the catalogue shows no tables; asking for one tells the two apart.
    try {
      await checkMigrated(knex, dialect, prefix);
    } catch (error) {
      if (!(error instanceof AgentCommunicationError)) throw error;
      if (error.code !== "NOT_MIGRATED") {
        return { level: "problem", found: error.message, remedy: error.recoverySuggestion };
      }
    }
    return {
      level: "problem",
      found: `pending: ${pending.join(", ")}`,
      remedy: "Run `agent-outbox migrate`.",
    };
  }
  return { level: "ok", found: `all ${status.length} applied`, remedy: null };
}

/** A check that fails says so; the others go on. */
async function runAll(checks: readonly Check[]): Promise<DiagnosisCheck[]> {
  const results: DiagnosisCheck[] = [];
  for (const { name, run } of checks) {
    try {
      results.push({ check: name, ...(await run()) });
    } catch (error) {
      const found = `could not be asked: ${(error as Error).message}`;
      results.push({ check: name, level: "unknown", found, remedy: null });
    }
  }
  return results;
}

function worst(checks: readonly DiagnosisCheck[]): Diagnosis["level"] {
  if (checks.some(({ level }) => level === "problem")) return "problem";
  return checks.some(({ level }) => level === "warning") ? "warning" : "ok";
}
