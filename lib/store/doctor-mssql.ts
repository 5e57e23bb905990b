import type { Knex } from "knex";
import {
  type Check,
  type DoctorDialect,
  type Finding,
  ok,
  problem,
  unknown,
  warning,
} from "./doctor-finding.ts";
import { int, query } from "./sql.ts";

/** SQL Server 2019. */
const MINIMUM = 15;
/** Azure SQL Database and Managed Instance: always current, whatever version they report. */
const AZURE = [5, 8];
/** OPENJSON came with SQL Server 2016; a database brought along from an older one may stay below. */
const MINIMUM_COMPATIBILITY = 130;

const INDEXES = `
  SELECT i.name AS index_name, t.name AS table_name, CAST(i.is_unique AS int) AS is_unique,
         1 - CAST(i.is_disabled AS int) AS is_valid, c.name AS column_name, CAST(ic.is_descending_key AS int) AS is_desc
  FROM sys.indexes i
  JOIN sys.tables t ON t.object_id = i.object_id
  JOIN sys.index_columns ic ON ic.object_id = i.object_id AND ic.index_id = i.index_id
  JOIN sys.columns c ON c.object_id = i.object_id AND c.column_id = ic.column_id
  WHERE i.is_primary_key = 0 AND i.type > 0 AND ic.key_ordinal > 0 AND t.schema_id = SCHEMA_ID()
    AND LEFT(t.name, LEN(:prefix)) = :prefix
  ORDER BY i.name, ic.key_ordinal`;

async function database(knex: Knex): Promise<Record<string, unknown> | undefined> {
  const [row] = await query(
    knex,
    "SELECT is_read_committed_snapshot_on AS rcsi, compatibility_level AS compatibility, delayed_durability_desc AS durability, is_read_only AS read_only FROM sys.databases WHERE database_id = DB_ID()",
  );
  return row;
}

async function snapshot(knex: Knex): Promise<Finding> {
  const row = await database(knex);
  if (row === undefined) return unknown("sys.databases does not list this database");
  return Number(row.rcsi) === 1
    ? ok("READ_COMMITTED_SNAPSHOT is on: readers do not wait for writers")
    : warning(
        "READ_COMMITTED_SNAPSHOT is off: statistics and sends wait for claims",
        "ALTER DATABASE CURRENT SET READ_COMMITTED_SNAPSHOT ON WITH ROLLBACK IMMEDIATE (ends open transactions; see DEPLOYMENT.md).",
      );
}

async function compatibility(knex: Knex): Promise<Finding> {
  const level = int((await database(knex))?.compatibility ?? MINIMUM_COMPATIBILITY);
  return level >= MINIMUM_COMPATIBILITY
    ? ok(`level ${level}`)
    : problem(
        `level ${level} lacks OPENJSON`,
        `ALTER DATABASE CURRENT SET COMPATIBILITY_LEVEL = 150 (at least ${MINIMUM_COMPATIBILITY}).`,
      );
}

async function durability(knex: Knex): Promise<Finding> {
  const row = await database(knex);
  if (Number(row?.read_only ?? 0) === 1) {
    return problem(
      "the database is read-only",
      "Connect to the primary replica, or set it READ_WRITE.",
    );
  }
  const delayed = String(row?.durability ?? "DISABLED");
  return delayed === "DISABLED"
    ? ok("a commit is on disk before it is confirmed")
    : warning(
        `DELAYED_DURABILITY is ${delayed}`,
        "A crash of the server may lose messages that were committed: ALTER DATABASE CURRENT SET DELAYED_DURABILITY = DISABLED.",
      );
}

async function escalation(knex: Knex, prefix: string): Promise<Finding> {
  const [row] = await query(
    knex,
    "SELECT lock_escalation_desc AS escalation FROM sys.tables WHERE object_id = OBJECT_ID(:messages)",
    { messages: `${prefix}messages` },
  );
  if (row === undefined || row.escalation === null) return unknown("not told");
  return row.escalation === "DISABLE"
    ? ok(`${prefix}messages never locks the whole table`)
    : warning(
        `lock escalation of ${prefix}messages is ${String(row.escalation)}`,
        `ALTER TABLE ${prefix}messages SET (LOCK_ESCALATION = DISABLE): a large claim would stop all others.`,
      );
}

async function tls(knex: Knex): Promise<Finding> {
  const [row] = await query(
    knex,
    "SELECT encrypt_option AS encrypted, client_net_address AS client FROM sys.dm_exec_connections WHERE session_id = @@SPID",
  );
  if (row === undefined || row.encrypted === null) return unknown("not told");
  if (String(row.encrypted).toUpperCase() === "TRUE") return ok("the connection is encrypted");
  return /^(<local machine>|127\.|::1$)/.test(String(row.client))
    ? ok("not used; the connection does not leave this machine")
    : warning("the connection is not encrypted", "Take encrypt=false out of the database URL.");
}

export const doctorMssql: DoctorDialect = {
  product: "SQL Server",
  driver: { package: "tedious", minimum: "18.2.1" },
  async version(knex) {
    const [row] = await query(
      knex,
      "SELECT CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)) AS version, CAST(SERVERPROPERTY('EngineEdition') AS int) AS edition",
    );
    const version = String(row?.version);
    return {
      version,
      minimum: "SQL Server 2019 (15.0)",
      good: AZURE.includes(int(row?.edition)) || Number.parseInt(version, 10) >= MINIMUM,
    };
  },
  indexes: INDEXES,
  checks: (knex, prefix): Check[] => [
    { name: "durability", run: () => durability(knex) },
    { name: "tls", run: () => tls(knex) },
    { name: "compatibility_level", run: () => compatibility(knex) },
    { name: "read_committed_snapshot", run: () => snapshot(knex) },
    { name: "lock_escalation", run: () => escalation(knex, prefix) },
  ],
};
