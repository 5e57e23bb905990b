import type { DialectName } from "./dialect.ts";

/** Each is one statement that decides by itself, by the database's clock alone. */
export interface LockStatements {
  /** Takes a lock that has a row and that nobody holds; passes over one that a transaction is about to change. */
  readonly over: string;
  /** Until when the lock is held, and whether it is free; also of a row that a transaction is about to change. */
  readonly look: string;
  /** Makes the row of a lock that has none, above the floor, which no purge can raise meanwhile. */
  readonly make: string;
  readonly renew: string;
  readonly release: string;
  /** Writes nothing new: it locks the row until the transaction ends. */
  readonly hold: string;
  readonly anyOld: string;
  readonly lockFloor: string;
  readonly purge: string;
  readonly raiseFloor: string;
}

const COLUMNS = ["resource_id", "owner_id", "fencing_token", "locked_at", "expires_at", "metadata"];
const OURS =
  "resource_id = :resource AND fencing_token = :token AND owner_id IS NOT NULL AND expires_at >";

function returning(prefix: string, now: string, marks: Marks): LockStatements {
  const locks = `${prefix}locks`;
  const floor = `${prefix}lock_floor`;
  const all = COLUMNS.join(", ");
  const free = `resource_id = :resource AND expires_at <= ${now}`;
  return {
    // The inner look passes over a locked row; the outer one sees it as it is once it is ours.
    over: `
      UPDATE ${locks} SET owner_id = :owner, fencing_token = fencing_token + 1, locked_at = ${now},
             expires_at = ${now} + ${marks.ttl}, metadata = ${marks.metadata}
      WHERE resource_id = (SELECT resource_id FROM ${locks} WHERE ${free} ${marks.skip}) AND expires_at <= ${now}
      RETURNING ${all}`,
    look: `SELECT expires_at, CASE WHEN expires_at <= ${now} THEN 1 ELSE 0 END AS free FROM ${locks} WHERE resource_id = :resource`,
    make: `
      INSERT INTO ${locks} (${all})
      SELECT :resource, :owner, f.fencing_token + 1, ${now}, ${now} + ${marks.ttl}, ${marks.metadata}
      FROM (SELECT fencing_token FROM ${floor} WHERE id = 'floor' ${marks.share}) f
      WHERE true
      ON CONFLICT (resource_id) DO NOTHING
      RETURNING ${all}`,
    renew: `UPDATE ${locks} SET expires_at = ${now} + ${marks.ttl} WHERE ${OURS} ${now} RETURNING ${all}`,
    release: `UPDATE ${locks} SET owner_id = NULL, expires_at = ${now} WHERE ${OURS} ${now} RETURNING resource_id`,
    hold: `UPDATE ${locks} SET fencing_token = fencing_token WHERE ${OURS} ${now} RETURNING resource_id`,
    anyOld: `SELECT resource_id FROM ${locks} WHERE expires_at <= ${now} - ${marks.kept} LIMIT 1`,
    lockFloor: `UPDATE ${floor} SET fencing_token = fencing_token WHERE id = 'floor'`,
    purge: `
      DELETE FROM ${locks} WHERE resource_id IN (
        SELECT resource_id FROM ${locks} WHERE expires_at <= ${now} - ${marks.kept}
        ORDER BY expires_at LIMIT :limit ${marks.skip})
      RETURNING fencing_token`,
    raiseFloor: `UPDATE ${floor} SET fencing_token = ${marks.token} WHERE id = 'floor' AND fencing_token < ${marks.token}`,
  };
}

interface Marks {
  readonly ttl: string;
  readonly kept: string;
  readonly token: string;
  readonly metadata: string;
  readonly skip: string;
  readonly share: string;
}

function mssql(prefix: string, now: string): LockStatements {
  const locks = `${prefix}locks`;
  const floor = `${prefix}lock_floor`;
  const out = COLUMNS.map((column) => `inserted.${column}`).join(", ");
  // A pooled connection keeps the isolation level of the transaction before; READPAST is refused under SERIALIZABLE.
  const committed = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;";
  // The clock advances within a statement: a lock is taken, and ends, by one look at it.
  const clock = `DECLARE @now bigint = ${now};`;
  const skip = "WITH (UPDLOCK, READPAST, ROWLOCK, READCOMMITTEDLOCK)";
  return {
    over: `
      ${committed} ${clock}
      UPDATE ${locks} ${skip} SET owner_id = :owner, fencing_token = fencing_token + 1, locked_at = @now,
             expires_at = @now + :ttl, metadata = :metadata
      OUTPUT ${out}
      WHERE resource_id = :resource AND expires_at <= @now`,
    // Only a hint for whoever waits; without NOLOCK it would wait for a transaction that holds the row.
    look: `SELECT expires_at, CASE WHEN expires_at <= ${now} THEN 1 ELSE 0 END AS free FROM ${locks} WITH (NOLOCK) WHERE resource_id = :resource`,
    // REPEATABLEREAD keeps the shared lock on the floor until the statement has committed.
    make: `
      ${clock}
      INSERT INTO ${locks} (${COLUMNS.join(", ")})
      OUTPUT ${out}
      SELECT :resource, :owner, f.fencing_token + 1, @now, @now + :ttl, :metadata
      FROM ${floor} f WITH (REPEATABLEREAD, ROWLOCK)
      WHERE f.id = N'floor'
        AND NOT EXISTS (SELECT 1 FROM ${locks} WITH (UPDLOCK, HOLDLOCK, ROWLOCK) WHERE resource_id = :resource)`,
    renew: `
      ${clock}
      UPDATE ${locks} WITH (ROWLOCK) SET expires_at = @now + :ttl OUTPUT ${out} WHERE ${OURS} @now`,
    release: `
      ${clock}
      UPDATE ${locks} WITH (ROWLOCK) SET owner_id = NULL, expires_at = @now OUTPUT inserted.resource_id WHERE ${OURS} @now`,
    hold: `
      ${clock}
      UPDATE ${locks} WITH (ROWLOCK) SET fencing_token = fencing_token OUTPUT inserted.resource_id WHERE ${OURS} @now`,
    anyOld: `${committed} SELECT TOP (1) resource_id FROM ${locks} WITH (READPAST, ROWLOCK, READCOMMITTEDLOCK) WHERE expires_at <= ${now} - :kept`,
    lockFloor: `UPDATE ${floor} SET fencing_token = fencing_token WHERE id = N'floor'`,
    purge: `
      ${clock}
      DELETE d OUTPUT deleted.fencing_token
      FROM (SELECT TOP (:limit) resource_id FROM ${locks} ${skip}
            WHERE expires_at <= @now - :kept ORDER BY expires_at) o
      INNER LOOP JOIN ${locks} d WITH (ROWLOCK) ON d.resource_id = o.resource_id`,
    raiseFloor: `UPDATE ${floor} SET fencing_token = :token WHERE id = N'floor' AND fencing_token < :token`,
  };
}

/** Bound numbers are texts to PostgreSQL until they are cast. */
const postgres: Marks = {
  ttl: "CAST(:ttl AS bigint)",
  kept: "CAST(:kept AS bigint)",
  token: "CAST(:token AS bigint)",
  metadata: "CAST(:metadata AS jsonb)",
  skip: "FOR UPDATE SKIP LOCKED",
  share: "FOR SHARE",
};

const sqlite: Marks = {
  ttl: ":ttl",
  kept: ":kept",
  token: ":token",
  metadata: ":metadata",
  skip: "",
  share: "",
};

const MAKERS: Record<DialectName, (prefix: string, now: string) => LockStatements> = {
  postgres: (prefix, now) => returning(prefix, now, postgres),
  sqlite: (prefix, now) => returning(prefix, now, sqlite),
  mssql,
};

export function lockStatements(name: DialectName, prefix: string, now: string): LockStatements {
  return MAKERS[name](prefix, now);
}
