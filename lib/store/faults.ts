import type { DriverFault } from "./dialect.ts";

interface DriverError {
  readonly code?: unknown;
  readonly number?: unknown;
  readonly message?: unknown;
  readonly name?: unknown;
  readonly originalError?: unknown;
}

/** Node's network errors, and knex's own when no connection could be had. */
const NETWORK = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "ECONNABORTED",
  "EPIPE",
  "ETIMEDOUT",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ESOCKET",
  "ETIMEOUT",
  "ECONNCLOSED",
  "EINVALIDSTATE",
  "ENOTOPEN",
]);

function common(error: DriverError): DriverFault | undefined {
  if (error instanceof AggregateError && error.errors.length > 0) {
    return common(error.errors[0] as DriverError);
  }
  if (error.name === "KnexTimeoutError" || error.name === "TimeoutError") return "connection";
  if (typeof error.code === "string" && NETWORK.has(error.code)) return "connection";
  const message = String(error.message ?? "");
  if (
    /Connection terminated|Client has encountered a connection error|Unable to acquire a connection|timeout exceeded when trying to connect|socket hang up|Connection to server was terminated|not queryable|connection is closed/i.test(
      message,
    )
  ) {
    return "connection";
  }
  return undefined;
}

/** SQLSTATE classes: https://www.postgresql.org/docs/current/errcodes-appendix.html */
export function faultOfPostgres(thrown: unknown): DriverFault {
  const error = (thrown ?? {}) as DriverError;
  const code = typeof error.code === "string" ? error.code : "";
  if (code === "23505") return "unique";
  if (code === "40P01") return "deadlock";
  if (code === "40001") return "serialization";
  // Somebody threw away what was prepared (DISCARD ALL): the transaction is over, and the next one goes without.
  if (code === "26000") return "serialization";
  if (code === "55P03") return "lock_timeout";
  if (code === "42P01" || code === "3F000") return "missing_table";
  if (code === "3D000") return "missing_database";
  if (code === "42501" || code.startsWith("28")) return "permission";
  if (code === "53100") return "disk_full";
  // 08 connection, 57P0x shut down or restarting, 53300 too many connections.
  if (code.startsWith("08") || code.startsWith("57P") || code === "53300") return "connection";
  return common(error) ?? "other";
}

/** https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors */
export function faultOfMssql(thrown: unknown): DriverFault {
  const error = (thrown ?? {}) as DriverError;
  // What made knex roll back, where the rollback failed as well.
  if (error.originalError instanceof Error && error.originalError !== thrown) {
    return faultOfMssql(error.originalError);
  }
  const number = typeof error.number === "number" ? error.number : undefined;
  if (number === 2627 || number === 2601) return "unique";
  if (number === 1205) return "deadlock";
  if (number === 3960) return "serialization";
  // 51222 is our own: the migration lock was not had in time.
  if (number === 1222 || number === 51222) return "busy";
  if (number === 208) return "missing_table";
  if (number === 229 || number === 230 || number === 18456) return "permission";
  if (error.code === "ELOGIN") return "permission";
  if (number === 1105 || number === 9002 || number === 40544) return "disk_full";
  // Azure SQL: failover, throttling, resource limits. All pass.
  if (number !== undefined && [4060, 40197, 40501, 40613, 49918, 49919, 49920].includes(number)) {
    return "connection";
  }
  const message = String(error.message ?? "");
  if (/could not serialize access/i.test(message)) return "serialization";
  if (/relation "[^"]*" does not exist|Invalid object name/i.test(message)) return "missing_table";
  return common(error) ?? "other";
}

/** https://www.sqlite.org/rescode.html */
export function faultOfSqlite(thrown: unknown): DriverFault {
  const error = (thrown ?? {}) as DriverError;
  const code = typeof error.code === "string" ? error.code : "";
  const message = String(error.message ?? "");
  if (code.startsWith("SQLITE_CONSTRAINT") && /UNIQUE|PRIMARY KEY/i.test(message)) return "unique";
  if (code.startsWith("SQLITE_BUSY") || code.startsWith("SQLITE_LOCKED")) return "busy";
  if (/no such table/i.test(message)) return "missing_table";
  if (code === "SQLITE_FULL" || code === "SQLITE_IOERR" || /disk I\/O error/i.test(message)) {
    return "disk_full";
  }
  if (code === "SQLITE_READONLY" || code === "SQLITE_PERM" || code === "SQLITE_AUTH") {
    return "permission";
  }
  if (code === "SQLITE_CANTOPEN") return "connection";
  return common(error) ?? "other";
}
