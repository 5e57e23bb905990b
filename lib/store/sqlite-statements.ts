type Answer = (this: unknown, error: Error | null, rows?: unknown[]) => void;

interface Statement {
  bind(bindings: unknown, done: () => void): unknown;
  all(bindings: unknown, done: Answer): unknown;
  finalize(): void;
}

/** A connection of the driver `sqlite3`. */
export interface SqliteConnection {
  run(sql: string, done: (error: Error | null) => void): void;
  all(sql: string, bindings: unknown, done: Answer): unknown;
  prepare(sql: string, done: Answer): Statement;
  close(done: (error: Error | null) => void): void;
}

/** What a PRAGMA or a change of a table does, it may do while it is prepared. */
const REPEATABLE = /^\s*(?:with|select|insert|update|delete|begin|commit)\b/i;
/** Texts that are remembered; every one that came twice has a statement. */
const MOST = 200;
/** A statement keeps a copy of what was bound last; what is longer, in characters, it is to forget. */
const MOST_BOUND = 65_536;

/**
 * Makes a connection keep the statements that it is given again and again. The driver would have each prepared anew,
 * which is a way to another thread and back of its own, and for small statements takes longer than their run. SQLite
 * prepares one anew by itself when tables or statistics have changed.
 */
export function keepStatements(connection: SqliteConnection): void {
  /** By text, the one used last at the end; undefined: it came once. */
  const kept = new Map<string, Statement | undefined>();
  const all = connection.all.bind(connection);
  const close = connection.close.bind(connection);
  let closed = false;

  const forget = (sql: string): void => {
    kept.get(sql)?.finalize();
    kept.delete(sql);
  };
  const note = (sql: string, statement?: Statement): void => {
    kept.delete(sql);
    kept.set(sql, statement);
    const [eldest] = kept.size > MOST ? kept.keys() : [];
    if (eldest !== undefined) forget(eldest);
  };
  const run = (sql: string, statement: Statement, bindings: unknown, done: Answer): void => {
    statement.all(bindings ?? [], function (error, rows) {
      // One that was refused a lock is under way until it is finalized.
      if (error !== null && kept.get(sql) === statement) forget(sql);
      // Whatever it was, it is bound to nothing from then on; one that is gone has forgotten it.
      else if (isLarge(bindings)) statement.bind([null], () => undefined);
      done.call(this, error, rows);
    });
  };

  connection.all = (sql, bindings, done) => {
    const known = kept.has(sql);
    if (!known && !REPEATABLE.test(sql)) return all(sql, bindings, done);
    if (!known) {
      note(sql);
      return all(sql, bindings, done);
    }
    const statement = kept.get(sql);
    if (statement !== undefined) {
      note(sql, statement);
      return run(sql, statement, bindings, done);
    }
    const made = connection.prepare(sql, function (error) {
      if (error !== null) return done.call(this, error);
      const needed = !closed && kept.get(sql) === undefined;
      if (needed) note(sql, made);
      run(sql, made, bindings, done);
      if (!needed) made.finalize();
    });
  };

  connection.close = (done) => {
    closed = true;
    // SQLite closes no connection that has statements.
    for (const sql of kept.keys()) forget(sql);
    return close(done);
  };
}

function isLarge(bindings: unknown): boolean {
  return Array.isArray(bindings) && charactersOf(bindings) > MOST_BOUND;
}

/** What a statement answers on a connection. */
export function answerOf(
  connection: SqliteConnection,
  sql: string,
  values: readonly unknown[],
): Promise<readonly unknown[]> {
  return new Promise((resolve, reject) => {
    connection.all(sql, values, (error, found) => {
      if (error === null) resolve(found ?? []);
      else reject(error);
    });
  });
}

/** About how long all values together are. */
export function charactersOf(values: readonly unknown[]): number {
  let length = 0;
  for (const value of values) {
    if (typeof value === "string" || Buffer.isBuffer(value)) length += value.length;
  }
  return length;
}
