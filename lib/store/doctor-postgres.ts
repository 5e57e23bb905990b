import type { Knex } from "knex";
import {
  type Check,
  type DoctorDialect,
  type Finding,
  ok,
  problem,
  warning,
} from "./doctor-finding.ts";
import { int, intOrNull, query } from "./sql.ts";

const MINIMUM = 14;
/** A snapshot older than this keeps vacuum from the dead rows of a busy queue. */
const OLD_SECONDS = 60;
const MOST_DEAD_ROWS = 20_000;

const INDEXES = `
  SELECT i.relname AS index_name, t.relname AS table_name, CAST(x.indisunique AS int) AS is_unique,
         CAST(x.indisvalid AS int) AS is_valid, a.attname AS column_name, x.indoption[k.n - 1] & 1 AS is_desc
  FROM pg_index x
  JOIN pg_class i ON i.oid = x.indexrelid
  JOIN pg_class t ON t.oid = x.indrelid
  CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k (attnum, n)
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
  WHERE NOT x.indisprimary AND k.n <= x.indnkeyatts AND pg_table_is_visible(t.oid)
    AND starts_with(CAST(t.relname AS text), :prefix)
  ORDER BY i.relname, k.n`;

const SNAPSHOTS = `
  SELECT what, seconds FROM (
    SELECT 'transaction of ' || coalesce(nullif(application_name, ''), usename, 'someone') || ' (pid ' || pid || ', ' || coalesce(state, 'unknown') || ')' AS what,
           extract(epoch FROM now() - xact_start) AS seconds
    FROM pg_stat_activity
    WHERE backend_xmin IS NOT NULL AND xact_start IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()
    UNION ALL
    SELECT 'prepared transaction ' || gid, extract(epoch FROM now() - prepared) FROM pg_prepared_xacts
    WHERE database = current_database()
  ) s
  ORDER BY seconds DESC LIMIT 1`;

const TUPLES = `
  SELECT n_live_tup AS live, n_dead_tup AS dead,
         CAST(extract(epoch FROM now() - greatest(last_autovacuum, last_vacuum)) AS bigint) AS vacuumed
  FROM pg_stat_user_tables
  WHERE relid = to_regclass(:messages)`;

const TLS = `
  SELECT s.ssl, s.version, inet_client_addr() IS NULL OR inet_client_addr() <<= inet '127.0.0.0/8' OR inet_client_addr() = inet '::1' AS local
  FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()`;

async function snapshots(knex: Knex): Promise<Finding> {
  const [row] = await query(knex, SNAPSHOTS);
  const seconds = Math.round(int(row?.seconds ?? 0));
  if (row === undefined || seconds < OLD_SECONDS) {
    const [role] = await query(
      knex,
      "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'member') AS sees_all",
    );
    return ok(
      role?.sees_all === true
        ? "no transaction has been open for long"
        : "no transaction of this user has been open for long (those of others are hidden from it)",
    );
  }
  return warning(
    `open for ${seconds} s: ${String(row.what)}`,
    "Claims grow slower as long as it is open, because vacuum cannot remove finished messages: end it, or set idle_in_transaction_session_timeout.",
  );
}

async function deadRows(knex: Knex, prefix: string): Promise<Finding> {
  const [row] = await query(knex, TUPLES, { messages: `${prefix}messages` });
  if (row === undefined) return ok("no statistics yet");
  const [live, dead] = [int(row.live), int(row.dead)];
  const vacuumed = intOrNull(row.vacuumed);
  const found = `${prefix}messages: ${live} live, ${dead} dead rows, vacuumed ${vacuumed === null ? "never" : `${vacuumed} s ago`}`;
  return dead <= MOST_DEAD_ROWS || dead <= live
    ? ok(found)
    : warning(
        found,
        `VACUUM ${prefix}messages; if it does not help, an old transaction holds the rows (see above).`,
      );
}

async function durability(knex: Knex): Promise<Finding> {
  const [row] = await query(
    knex,
    "SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit, pg_is_in_recovery() AS replica",
  );
  if (row?.replica === true) {
    return problem("this server is a read-only replica", "Connect to the primary server.");
  }
  const off = ["fsync", "synchronous_commit"].filter((name) => row?.[name] === "off");
  return off.length === 0
    ? ok("a commit is on disk before it is confirmed")
    : warning(
        `${off.join(" and ")} off`,
        "A crash of the server may lose messages that were committed: switch it on.",
      );
}

async function tls(knex: Knex): Promise<Finding> {
  const [row] = await query(knex, TLS);
  if (row?.ssl === true) return ok(String(row.version));
  return row?.local === true
    ? ok("not used; the connection does not leave this machine")
    : warning("the connection is not encrypted", "Add ?sslmode=verify-full to the database URL.");
}

export const doctorPostgres: DoctorDialect = {
  product: "PostgreSQL",
  driver: { package: "pg", minimum: "8.11.0" },
  async version(knex) {
    const [row] = await query(
      knex,
      "SELECT current_setting('server_version') AS version, current_setting('server_version_num') AS number",
    );
    return {
      version: String(row?.version),
      minimum: `PostgreSQL ${MINIMUM}`,
      good: int(row?.number) >= MINIMUM * 10_000,
    };
  },
  indexes: INDEXES,
  checks: (knex, prefix): Check[] => [
    { name: "durability", run: () => durability(knex) },
    { name: "tls", run: () => tls(knex) },
    { name: "old_snapshots", run: () => snapshots(knex) },
    { name: "dead_rows", run: () => deadRows(knex, prefix) },
  ],
};
