import { type Marked, onConnection, type Pool } from "./connection.ts";
import { answerOf, type SqliteConnection } from "./sqlite-statements.ts";

/** So many pages are written back at once, and flushed to the disk: as many as `SQLITE_PRAGMAS` says for others. */
const PORTION = 2_000;
/** With so many pages the log is to begin anew. */
const MOST = 12_000;
/** With so many SQLite does it by itself, in the commit that made it so: where others write, or the disk is slow. */
const LAST_RESORT = 16_000;
/** How much is written between two looks at the log: some hundred pages. */
const LOOK_AFTER = 64;
/** A statement counts for so much by itself, and one more for so many characters that it bound, or rows that it gave. */
const EACH = 0.25;
const CHARACTERS = 16_384;
const ROWS = 16;
/** After an error nobody looks for so long. */
const PAUSE_MS = 1_000;

type Connection = SqliteConnection & Marked;

/** How knex opens and closes connections of SQLite. */
export interface Opener {
  acquireRawConnection(): Promise<SqliteConnection>;
  destroyRawConnection(connection: SqliteConnection): Promise<void>;
}

/** Pages of the log, and how many of them are in the file; `log` is -1 where there is none. */
interface State {
  readonly log: number;
  readonly checkpointed: number;
}

/**
 * Writes the log of a SQLite file back beside the statements, on a connection of its own. SQLite does so in the commit
 * that makes the log longer than a limit, with two flushes of the disk: every thirtieth batch of 500 messages would take
 * 20 ms instead of one and a half, a third of the time of all of them. Only where pages are added all the time is there
 * never a moment in which all of the log is written back, so that it may begin anew: then it takes one short moment
 * between two statements.
 */
export class WriteAheadLog {
  readonly #pool: Pool & Opener;
  /** Those that leave the log to us. */
  readonly #leaving = new WeakSet<Connection>();
  #written = 0;
  #busy = false;
  #pass: Promise<boolean> | undefined;
  #connection: SqliteConnection | undefined;
  /** Whether there is a log, and SQLite can tell how long it is. */
  #tells: boolean | undefined;
  #pausedUntil = 0;
  #closed = false;

  constructor(pool: Pool & Opener) {
    this.#pool = pool;
  }

  /** A statement has run: how many characters were bound, and how many rows it gave. Never rejects. */
  async wrote(connection: Connection, characters: number, rows: number): Promise<void> {
    if (this.#tells === false) return;
    this.#written += EACH + characters / CHARACTERS + rows / ROWS;
    if (this.#written < LOOK_AFTER || this.#closed) return;
    if (this.#tells && !this.#leaving.has(connection)) {
      this.#leaving.add(connection);
      const leave = answerOf(connection, `PRAGMA wal_autocheckpoint = ${LAST_RESORT}`, []);
      await leave.catch(() => undefined);
    }
    if (this.#busy || performance.now() < this.#pausedUntil) return;
    this.#written = 0;
    void this.#look();
  }

  /** Resolves when nothing is written back on the connection for it any more, and it is closed. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#pass?.catch(() => undefined);
    await this.#disconnect();
  }

  async #look(): Promise<void> {
    this.#busy = true;
    try {
      this.#pass = this.#writeBack();
      const rest = await this.#pass;
      if (rest && !this.#closed) {
        const never = () => false;
        await onConnection<Connection, State>(this.#pool, (writer) => checkpoint(writer), never);
      }
    } catch {
      this.#pausedUntil = performance.now() + PAUSE_MS;
    } finally {
      this.#busy = false;
    }
  }

  /** Writes back what is worth it. True: the log is long, and little of it is left. */
  async #writeBack(): Promise<boolean> {
    this.#connection ??= await this.#pool.acquireRawConnection();
    const connection = this.#connection;
    this.#tells ??= await canTell(connection);
    if (!this.#tells) {
      await this.#disconnect();
      return false;
    }
    const { log, checkpointed } = await checkpoint(connection, "NOOP");
    if (log - checkpointed < PORTION) return false;
    const first = await checkpoint(connection);
    // Somebody who reads an older state keeps the log.
    if (first.checkpointed <= checkpointed || first.log < MOST) return false;
    // What was added meanwhile.
    await checkpoint(connection);
    const left = await checkpoint(connection, "NOOP");
    return left.log > left.checkpointed;
  }

  async #disconnect(): Promise<void> {
    const connection = this.#connection;
    this.#connection = undefined;
    if (connection !== undefined) await this.#pool.destroyRawConnection(connection);
  }
}

/** Waits for nobody: neither for who reads, nor for who writes back already. */
async function checkpoint(
  connection: SqliteConnection,
  mode: "PASSIVE" | "NOOP" = "PASSIVE",
): Promise<State> {
  const [state] = await answerOf(connection, `PRAGMA wal_checkpoint(${mode})`, []);
  return state as State;
}

/** Whether there is a log, and SQLite (from 3.51 on) says how long it is without writing it back. */
async function canTell(connection: SqliteConnection): Promise<boolean> {
  // A connection that has read nothing knows of no log.
  const [found] = await answerOf(
    connection,
    "SELECT sqlite_version() AS version, (SELECT count(*) FROM sqlite_master) AS tables",
    [],
  );
  const [major = 0, minor = 0] = (found as { version: string }).version.split(".").map(Number);
  if (major < 3 || (major === 3 && minor < 51)) return false;
  return (await checkpoint(connection, "NOOP")).log >= 0;
}

const logs = new WeakMap<object, WriteAheadLog>();

/** The log of a client's file, if it is ours to write back. */
export function logOf(pool: object): WriteAheadLog | undefined {
  return logs.get(pool);
}

/** Has the log of a client's file written back beside its statements, until the client is destroyed. */
export function writeBack(client: Pool & Opener & { destroy(...given: unknown[]): unknown }): void {
  const log = new WriteAheadLog(client);
  logs.set(client, log);
  const destroy = client.destroy.bind(client);
  client.destroy = async (...given) => {
    // Whoever closes last writes all of the log back and removes it.
    await log.close().catch(() => undefined);
    return destroy(...given);
  };
}
