import type { Knex } from "knex";
import type { Dialect } from "./dialect.ts";
import { int, intOrNull, query, translated } from "./sql.ts";
import type { Vacuuming } from "./vacuum.ts";

/** Where a row is inserted and deleted for every message, or for every one that has a key or a limit. */
const TABLES = ["messages", "keys", "slots"];
/** Below this nobody asks who holds locks: a look at an idle database costs little. */
const WORTH_A_LOOK = 1_000;

/**
 * The functions below the statistics' views, which read three tables and not the whole catalogue. Who may vacuum: the
 * owner of the table or the database, and from version 17 on whoever was granted it; all others would be warned and
 * nothing done. A standby cannot.
 */
const look = (prefix: string, now: string) => `
  SELECT t.name AS table_name,
         pg_stat_get_dead_tuples(c.oid) AS dead,
         pg_stat_get_live_tuples(c.oid) AS live,
         pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) AS changes,
         pg_stat_get_vacuum_count(c.oid) + pg_stat_get_autovacuum_count(c.oid) AS vacuums,
         ${now} - CAST(floor(extract(epoch FROM greatest(
           pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))) * 1000) AS bigint) AS vacuumed_ms,
         CASE WHEN pg_stat_get_dead_tuples(c.oid) < ${WORTH_A_LOOK} OR pg_is_in_recovery() THEN false
              WHEN NOT pg_has_role((SELECT d.datdba FROM pg_database d WHERE d.datname = current_database()), 'USAGE')
                AND NOT CASE WHEN CAST(current_setting('server_version_num') AS int) >= 170000
                             THEN has_table_privilege(c.oid, 'MAINTAIN')
                             ELSE pg_has_role(c.relowner, 'USAGE') END THEN false
              ELSE NOT EXISTS (
                SELECT 1 FROM pg_locks l
                WHERE l.relation = c.oid AND l.granted
                  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                  AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
         END AS free
  FROM unnest(ARRAY[${TABLES.map((name) => `'${prefix}${name}'`).join(", ")}]) AS t(name)
  JOIN pg_class c ON c.oid = to_regclass(t.name)`;

export function postgresVacuuming(knex: Knex, dialect: Dialect, prefix: string): Vacuuming {
  const LOOK = look(prefix, dialect.now);
  return {
    look: () =>
      translated(dialect, async () => {
        const rows = await query(knex, LOOK);
        return rows.map((row) => ({
          table: String(row.table_name),
          dead: int(row.dead),
          live: int(row.live),
          changes: int(row.changes),
          vacuums: int(row.vacuums),
          vacuumedMs: intOrNull(row.vacuumed_ms),
          free: row.free === true,
        }));
      }),
    /**
     * Not in a transaction, where no vacuum can run. Two at once, or beside autovacuum: the later one leaves it.
     * Without giving the end of the file back, for which it would lock the whole table: the place is needed again
     * in a moment, and where it is not, autovacuum gives it back.
     */
    vacuum: (table) =>
      translated(dialect, async () => {
        await query(knex, `VACUUM (SKIP_LOCKED, TRUNCATE false) ${table}`);
      }),
  };
}
