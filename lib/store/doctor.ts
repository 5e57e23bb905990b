import { createRequire } from "node:module";
import type { Knex } from "knex";
import type { Dialect, DialectName } from "./dialect.ts";
import { dialectFor } from "./dialects.ts";
import {
  type Check,
  type DoctorDialect,
  type Finding,
  type FoundIndex,
  ok,
  problem,
  warning,
} from "./doctor-finding.ts";
import { doctorMssql } from "./doctor-mssql.ts";
import { doctorPostgres } from "./doctor-postgres.ts";
import { doctorSqlite } from "./doctor-sqlite.ts";
import { migrationSql } from "./migrate.ts";
import { int, intOrNull, query, type Row } from "./sql.ts";

const DIALECTS: Record<DialectName, DoctorDialect> = {
  postgres: doctorPostgres,
  mssql: doctorMssql,
  sqlite: doctorSqlite,
};

const span = (ms: number): string => {
  const seconds = Math.round(ms / 1_000);
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7_200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3_600)} h`;
};

/** What can be asked of any database that answers, migrated or not. */
export function serverChecks(knex: Knex, name: DialectName, prefix: string): Check[] {
  const own = DIALECTS[name];
  const { now } = dialectFor(name, prefix);
  return [
    { name: "server_version", run: async () => serverVersion(own, await own.version(knex)) },
    { name: "driver_version", run: async () => driverVersion(own) },
    { name: "clock", run: async () => clock(knex, now) },
    ...own.checks(knex, prefix),
  ];
}

function serverVersion(
  own: DoctorDialect,
  { version, minimum, good }: { version: string; minimum: string; good: boolean },
): Finding {
  const found = `${own.product} ${version}`;
  return good
    ? ok(found)
    : problem(`${found} is older than ${minimum}`, `Upgrade it to ${minimum} or later.`);
}

const numbers = (version: string): number[] => version.split(/[.-]/).slice(0, 3).map(Number);

function driverVersion({ driver }: DoctorDialect): Finding {
  const { version } = createRequire(import.meta.url)(`${driver.package}/package.json`) as {
    version: string;
  };
  const found = `${driver.package} ${version}`;
  const [have, need] = [numbers(version), numbers(driver.minimum)];
  const n = have.findIndex((part, at) => part !== need[at]);
  return n < 0 || (have[n] ?? 0) > (need[n] ?? 0)
    ? ok(found)
    : warning(`${found} is older than ${driver.minimum}`, `npm install ${driver.package}@latest`);
}

/** Beyond this, times in the logs of two machines cannot be laid side by side. */
const CLOCKS_APART_MS = 2_000;

async function clock(knex: Knex, now: string): Promise<Finding> {
  const before = Date.now();
  const [row] = await query(knex, `SELECT ${now} AS now`);
  const after = Date.now();
  const apart = int(row?.now) - (before + after) / 2;
  const certain = Math.max(0, Math.abs(apart) - (after - before) / 2);
  if (certain <= CLOCKS_APART_MS) return ok("the database's clock and this machine's agree");
  return warning(
    `the database's clock is ${span(Math.abs(apart))} ${apart > 0 ? "ahead of" : "behind"} this machine's`,
    "Deliveries are not affected (only the database's clock decides), but times in logs do not match: synchronise both by NTP.",
  );
}

const shape = ({ table, unique, columns }: Omit<FoundIndex, "name" | "valid">): string =>
  `${unique ? "unique " : ""}${table} (${columns.join(", ")})`.toLowerCase();

/** The indexes that the migrations make, read from their own SQL. A later one of the same name replaces it. */
function expectedIndexes(name: DialectName, prefix: string): FoundIndex[] {
  const made = new Map<string, FoundIndex>();
  for (const statement of migrationSql(name, { prefix }).flatMap(({ statements }) => statements)) {
    const [, unique, index, table, columns] =
      /^CREATE (UNIQUE )?INDEX (\w+) ON (\w+) \(([^)]*)\)/i.exec(statement) ?? [];
    if (index === undefined || table === undefined || columns === undefined) continue;
    const list = columns.split(",").map((column) => column.trim());
    made.set(index, {
      ...{ name: index, table, columns: list },
      ...{ unique: unique !== undefined, valid: true },
    });
  }
  return [...made.values()];
}

/**
 * Whether the indexes are those that the migrations make. Compared by table and columns rather than by name: an
 * index that a DBA made anew under another name serves as well.
 */
async function indexes(knex: Knex, name: DialectName, prefix: string): Promise<Finding> {
  const expected = expectedIndexes(name, prefix);
  const found = await catalogue(knex, DIALECTS[name].indexes, prefix);
  const missing = expected.filter(
    (index) => !found.some((other) => other.valid && shape(other) === shape(index)),
  );
  if (missing.length > 0) {
    return problem(
      `missing or invalid: ${missing.map((index) => index.name).join(", ")}`,
      "Make them again as `agent-outbox schema` prints them; an invalid one must be dropped first.",
    );
  }
  const tables = new Set(expected.map(({ table }) => table));
  const extra = found.filter(
    (index) => tables.has(index.table) && !expected.some((other) => shape(other) === shape(index)),
  );
  if (extra.length > 0) {
    return warning(
      `not ours: ${extra.map((index) => `${index.name} on ${shape(index)}`).join("; ")}`,
      "Every index is written with every message; drop those that nobody needs.",
    );
  }
  return ok(`all ${expected.length} as the migrations make them`);
}

async function catalogue(knex: Knex, sql: string, prefix: string): Promise<FoundIndex[]> {
  const byName = new Map<string, FoundIndex & { columns: string[] }>();
  for (const row of await query(knex, sql, { prefix })) {
    const name = String(row.index_name);
    const index = byName.get(name) ?? {
      name,
      table: String(row.table_name),
      unique: int(row.is_unique) === 1,
      valid: int(row.is_valid) === 1,
      columns: [],
    };
    byName.set(name, index);
    index.columns.push(`${String(row.column_name)}${int(row.is_desc) === 1 ? " DESC" : ""}`);
  }
  return [...byName.values()];
}

/** Rows of the ready index that are looked at: what a look costs must not grow with the backlog. */
const LOOK = 10_000;
const OLD_MS = 300_000;
/** A claimer takes a lapsed message within a second of its lease; this long unclaimed says that nobody claims. */
const LAPSED_MS = 5_000;

/** What the tables themselves tell; they must be there. */
export function tableChecks(knex: Knex, name: DialectName, prefix: string): Check[] {
  const dialect = dialectFor(name, prefix);
  const table = (base: string) => `${prefix}${base}`;
  return [
    { name: "indexes", run: () => indexes(knex, name, prefix) },
    { name: "dead_letters", run: () => deadLetters(knex, table("dead_letters")) },
    { name: "oldest_ready", run: () => oldestReady(knex, dialect, table) },
    { name: "lapsed_leases", run: () => lapsedLeases(knex, dialect, table("messages")) },
    { name: "paused_mailboxes", run: () => pausedMailboxes(knex, table("mailboxes")) },
    { name: "lost_agents", run: () => lostAgents(knex, dialect, table("agents")) },
  ];
}

const counted = (rows: number): string => (rows > LOOK ? `more than ${LOOK}` : String(rows));

async function deadLetters(knex: Knex, table: string): Promise<Finding> {
  const rows = (await knex(table)
    .select("seq")
    .limit(LOOK + 1)) as Row[];
  return rows.length === 0
    ? ok("none")
    : warning(
        `${counted(rows.length)} wait for a decision`,
        "`agent-outbox dlq ls` tells why; mend the cause, then `agent-outbox dlq redrive` or `agent-outbox dlq purge`.",
      );
}

async function oldestReady(
  knex: Knex,
  dialect: Dialect,
  table: (base: string) => string,
): Promise<Finding> {
  const inner = knex(table("messages"))
    .select("to_agent", "visible_at")
    .whereRaw(`state = 0 AND visible_at <= ${dialect.now}`)
    .limit(LOOK)
    .as("ready");
  const row = (await knex
    .from(inner)
    .select("to_agent", knex.raw(`${dialect.now} - visible_at AS age`))
    .whereNotIn("to_agent", knex(table("mailboxes")).select("agent_id").whereNotNull("paused_at"))
    .orderBy("visible_at")
    .first()) as Row | undefined;
  const age = intOrNull(row?.age);
  if (age === null || row === undefined) return ok("nothing waits");
  const found = `a message for ${String(row.to_agent)} has been ready for ${span(age)}`;
  return age < OLD_MS
    ? ok(found)
    : warning(
        found,
        `Check that a worker polls that mailbox: \`agent-outbox stats ${String(row.to_agent)}\`.`,
      );
}

async function lapsedLeases(knex: Knex, dialect: Dialect, table: string): Promise<Finding> {
  const inner = knex(table)
    .select("worker_id", "visible_at")
    .whereRaw("state = 0")
    .limit(LOOK)
    .as("ready");
  const rows = (await knex
    .from(inner)
    .select("worker_id")
    .whereNotNull("worker_id")
    .whereRaw(`visible_at < ${dialect.now} - ${LAPSED_MS}`)) as Row[];
  if (rows.length === 0) return ok("none");
  return warning(
    `the leases of ${counted(rows.length)} messages passed, and nobody claimed them again; the last worker was ${String(rows[0]?.worker_id)}`,
    "Start a worker for their mailboxes; nothing is lost.",
  );
}

async function pausedMailboxes(knex: Knex, table: string): Promise<Finding> {
  const rows = (await knex(table)
    .select("agent_id", "pause_reason")
    .whereNotNull("paused_at")
    .orderBy("agent_id")
    .limit(20)) as Row[];
  if (rows.length === 0) return ok("none");
  const names = rows.map(
    (row) =>
      `${String(row.agent_id)}${row.pause_reason === null ? "" : ` (${String(row.pause_reason)})`}`,
  );
  return warning(
    names.join(", "),
    `\`agent-outbox resume ${String(rows[0]?.agent_id)}\` when the reason is gone.`,
  );
}

async function lostAgents(knex: Knex, dialect: Dialect, table: string): Promise<Finding> {
  const rows = (await knex(table)
    .select("agent_id")
    .whereNot({ status: "offline" })
    .whereRaw(`heartbeat_at < ${dialect.now} - stale_after_ms`)
    .orderBy("agent_id")
    .limit(20)) as Row[];
  if (rows.length === 0) return ok("none");
  return warning(
    rows.map((row) => String(row.agent_id)).join(", "),
    "Start them again; `agent-outbox agents rm` takes away those that will not come back.",
  );
}
