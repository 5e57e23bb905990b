import { type Pool, told } from "./connection.ts";
import type { Db } from "./dialect.ts";
import { HEAD, type PlainMessages } from "./plain-messages.ts";
import { type Connection, onPostgres, type Wire, wireOf } from "./postgres-connection.ts";

/** A piece of data that goes to the server at once, in characters. */
const PIECE = 32_000;

/** What is the same for every message that nobody has claimed; the instants are the columns' defaults. */
const NEW = { state: 0, receipt: 0, attempt: 0, redriven: 0, lane: "" };

/** A COPY .. FROM STDIN, as node-postgres runs what is not a query of its own. */
class CopyIn {
  /** Set by node-postgres too, where it has a timeout to add. */
  callback: (error: Error | null) => void = () => undefined;
  readonly #text: string;
  readonly #data: Iterable<string>;

  constructor(text: string, data: Iterable<string>) {
    this.#text = text;
    this.#data = data;
  }

  submit(wire: Wire): void {
    wire.query(this.#text);
  }

  handleCopyInResponse(wire: Wire): void {
    // The server takes in one piece while the next is written; the last one and the end go together.
    let last: string | undefined;
    for (const piece of this.#data) {
      if (last !== undefined) wire.sendCopyFromChunk(Buffer.from(last));
      last = piece;
    }
    wire.stream?.cork();
    if (last !== undefined) wire.sendCopyFromChunk(Buffer.from(last));
    wire.endCopyFrom();
    wire.stream?.uncork();
  }

  handleError(error: Error): void {
    this.#end(error);
  }

  handleReadyForQuery(): void {
    this.#end(null);
  }

  #end(error: Error | null): void {
    const { callback } = this;
    this.callback = () => undefined;
    callback(error);
  }

  handleCommandComplete(): void {}
  handleRowDescription(): void {}
  handleDataRow(): void {}
  handlePortalSuspended(): void {}
  handleEmptyQuery(): void {}
}

/** Whether a server takes a COPY into these tables, by the configuration of a pool and its transactions. */
const takes = new WeakMap<object, boolean>();

/** What a server or a policy of its tables says that has no COPY. */
const REFUSED = ["0A000", "42501", "42601"];

/**
 * Stores plain messages as PostgreSQL takes rows in bulk: nothing is planned, and a page is filled at once. Half of
 * the work of an INSERT for fifty messages, four fifths for five hundred. Resolves to false where that is not to be
 * had, and nothing was stored: over another driver, or under row-level security. A transaction would not survive the
 * refusal, so it is found out outside of one.
 */
export async function copyMessages(
  db: Db,
  table: string,
  messages: PlainMessages,
): Promise<boolean> {
  const pool = db.client as Pool;
  const { isTransaction, isCompleted } = db as { isTransaction?: boolean; isCompleted?(): boolean };
  const proved = takes.get(pool.config);
  if (proved === false || (isTransaction && (!proved || isCompleted?.()))) return false;
  try {
    const copied = await onPostgres(pool, async (connection) => {
      const able = wireOf(connection)?.sendCopyFromChunk !== undefined;
      if (able) await copy(pool, connection, table, messages);
      return able;
    });
    takes.set(pool.config, copied);
    return copied;
  } catch (error) {
    if (proved || !REFUSED.includes((error as { code?: string }).code ?? "")) throw error;
    takes.set(pool.config, false);
    return false;
  }
}

async function copy(
  pool: Pool,
  connection: Connection,
  table: string,
  messages: PlainMessages,
): Promise<void> {
  const { heads } = messages;
  const columns = HEAD.filter((column) => heads.some((head) => head[column] !== null));
  const text = `COPY ${table} (message_id, content, rank, ${Object.keys(NEW)}, ${columns}) FROM STDIN`;
  const tails = heads.map((head) => {
    const values = [100 - head.priority, ...Object.values(NEW), ...columns.map((c) => head[c])];
    return `\t${values.map(written).join("\t")}\n`;
  });
  await told(pool, connection, text, [], async () => {
    await new Promise<void>((resolve, reject) => {
      const copying = new CopyIn(text, pieces(messages, tails));
      copying.callback = (error) => (error === null ? resolve() : reject(error));
      connection.query(copying);
    });
    return { rowCount: messages.count, rows: [] };
  });
}

/** https://www.postgresql.org/docs/current/sql-copy.html, "Text Format". */
function* pieces(
  { ids, contents, places }: PlainMessages,
  tails: readonly string[],
): Iterable<string> {
  let piece = "";
  for (let n = 0; n < ids.length; n++) {
    piece += `${onOneLine(ids[n] as string)}\t${onOneLine(contents[n] as string)}${tails[places[n] as number]}`;
    if (piece.length < PIECE) continue;
    yield piece;
    piece = "";
  }
  if (piece !== "") yield piece;
}

/** Ids and JSON texts have neither tabs nor ends of lines. */
function onOneLine(text: string): string {
  return text.includes("\\") ? text.replaceAll("\\", "\\\\") : text;
}

const ESCAPED: Record<string, string> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

function written(value: unknown): string {
  if (value === null || value === undefined) return "\\N";
  return String(value).replace(/[\\\n\r\t]/g, (found) => ESCAPED[found] ?? found);
}
