import { stat, statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import type { Knex } from "knex";
import {
  type Check,
  type DoctorDialect,
  type Finding,
  ok,
  problem,
  warning,
} from "./doctor-finding.ts";
import { int, query } from "./sql.ts";

const MINIMUM = [3, 42] as const;
/** A log this much larger than its usual 8 MB says that a reader keeps it from being written back. */
const LARGE_LOG = 256_000_000;
const LITTLE_ROOM = 500_000_000;
const SHORT_WAIT_MS = 1_000;

const INDEXES = `
  SELECT m.name AS index_name, m.tbl_name AS table_name, m.sql LIKE 'CREATE UNIQUE%' AS is_unique, 1 AS is_valid,
         x.name AS column_name, x."desc" AS is_desc
  FROM sqlite_master m, pragma_index_xinfo(m.name) x
  WHERE m.type = 'index' AND m.sql IS NOT NULL AND x.key = 1 AND substr(m.tbl_name, 1, length(:prefix)) = :prefix
  ORDER BY m.name, x.seqno`;

const megabytes = (bytes: number): string => `${(bytes / 1_000_000).toFixed(1)} MB`;

async function pragma(knex: Knex, name: "journal_mode" | "synchronous" | "busy_timeout") {
  const [row] = await query(knex, `PRAGMA ${name}`);
  return Object.values(row ?? {})[0];
}

/** Where the database lies, or undefined in memory. */
function fileOf(knex: Knex): string | undefined {
  const { filename } =
    (knex.client as { connectionSettings?: { filename?: string } }).connectionSettings ?? {};
  return filename === undefined || filename === "" || filename === ":memory:"
    ? undefined
    : resolve(filename);
}

const sizeOf = (path: string): Promise<number> =>
  stat(path).then(
    ({ size }) => size,
    () => 0,
  );

async function journal(knex: Knex): Promise<Finding> {
  const mode = String(await pragma(knex, "journal_mode"));
  if (mode === "wal" || fileOf(knex) === undefined) return ok(mode);
  return warning(
    `journal_mode is ${mode}: readers and the writer wait for each other`,
    "PRAGMA journal_mode = WAL (agent-outbox sets it; a knex of your own must, too). Not possible on a network drive.",
  );
}

const SYNCHRONOUS = ["OFF", "NORMAL", "FULL", "EXTRA"];

async function durability(knex: Knex): Promise<Finding> {
  const mode = SYNCHRONOUS[int(await pragma(knex, "synchronous"))] ?? "unknown";
  if (fileOf(knex) === undefined) return ok("in memory: gone with this process");
  if (mode === "OFF") {
    return problem(
      "synchronous is OFF",
      "A power cut may destroy the database: PRAGMA synchronous = NORMAL.",
    );
  }
  return ok(
    mode === "NORMAL"
      ? "synchronous is NORMAL: survives every crash of a process; a power cut may cost the last commits (?synchronous=FULL)"
      : `synchronous is ${mode}`,
  );
}

async function busyTimeout(knex: Knex): Promise<Finding> {
  const ms = int(await pragma(knex, "busy_timeout"));
  return ms >= SHORT_WAIT_MS
    ? ok(`${ms} ms`)
    : warning(
        `${ms} ms: a second writer fails at once`,
        "PRAGMA busy_timeout = 10000 in your knex's pool.afterCreate.",
      );
}

async function files(knex: Knex): Promise<Finding> {
  const file = fileOf(knex);
  if (file === undefined) return ok("in memory");
  const [size, log] = [await sizeOf(file), await sizeOf(`${file}-wal`)];
  const { bavail, bsize } = await statfs(dirname(file));
  const room = bavail * bsize;
  const found = `${megabytes(size)}, log ${megabytes(log)}, ${megabytes(room)} free on the disk`;
  if (room < LITTLE_ROOM)
    return warning(found, "Free some disk space: a full disk stops all sends.");
  return log <= LARGE_LOG
    ? ok(found)
    : warning(found, "A transaction that is open for long keeps the log from shrinking: end it.");
}

export const doctorSqlite: DoctorDialect = {
  product: "SQLite",
  driver: { package: "sqlite3", minimum: "5.1.7" },
  async version(knex) {
    const [row] = await query(knex, "SELECT sqlite_version() AS version");
    const version = String(row?.version);
    const [major = 0, minor = 0] = version.split(".").map(Number);
    return {
      version,
      minimum: `SQLite ${MINIMUM.join(".")}`,
      good: major > MINIMUM[0] || (major === MINIMUM[0] && minor >= MINIMUM[1]),
    };
  },
  indexes: INDEXES,
  checks: (knex): Check[] => [
    { name: "durability", run: () => durability(knex) },
    { name: "journal_mode", run: () => journal(knex) },
    { name: "busy_timeout", run: () => busyTimeout(knex) },
    { name: "files", run: () => files(knex) },
  ],
};
