import type { Db } from "./dialect.ts";

/** Bytes only where the driver takes them as they are (`sqlite3`, node-postgres). */
export type Bindings = Record<string, string | number | boolean | Buffer | null>;

/** A constant text as the driver takes it, and what it names, in the order in which it does. */
interface Constant {
  readonly names: readonly string[];
  /** Undefined for a text that only knex should read. */
  readonly sql: string | undefined;
}

/** What is used of knex's client, which has no types for it. */
interface Client {
  readonly config?: { readonly asyncStackTraces?: boolean; readonly debug?: boolean };
  positionBindings(sql: string): string;
}

/** A statement of knex: it runs when it is awaited. */
interface Statement extends PromiseLike<unknown> {
  client: Client;
  sql: string;
  bindings: readonly unknown[];
  options: DriverOptions;
  _debug: boolean | undefined;
}

/** What the driver is told beside the statement: node-postgres prepares it under a name. */
type DriverOptions = { readonly name?: string };

/** What is the same for all statements through clients of one kind. */
class Kind {
  readonly #prototype: object;
  /** By text: they are constants, a few for each table prefix. */
  readonly #constants = new Map<string, Constant>();

  constructor(db: Db) {
    this.#prototype = prototypeOf(db);
  }

  constant(text: string, client: Client): Constant {
    const known = this.#constants.get(text);
    if (known !== undefined) return known;
    if (this.#constants.size >= MOST_TEXTS) this.#constants.clear();
    const constant = {
      names: [...text.matchAll(NAME)].map(([, name]) => String(name)),
      sql: /[?\\]/.test(text) ? undefined : client.positionBindings(text.replace(NAME, "?")),
    };
    this.#constants.set(text, constant);
    return constant;
  }

  statement(
    client: Client,
    sql: string,
    bindings: readonly unknown[],
    options: DriverOptions,
  ): Statement {
    const statement = Object.create(this.#prototype) as Statement;
    statement.client = client;
    statement.sql = sql;
    statement.bindings = bindings;
    statement.options = options;
    statement._debug = client.config?.debug;
    return statement;
  }
}

const MOST_TEXTS = 1_000;
const NAME = /(?<![:\w]):([a-z_]+)\b/g;
const kinds = new WeakMap<object, Kind>();
let statements = 0;

/** As knex's statements of text, but for the text: that was read before. */
function prototypeOf(db: Db): object {
  return Object.create(Object.getPrototypeOf(db.raw("")) as object, {
    toSQL: {
      value(this: Statement) {
        const { sql, bindings, options } = this;
        statements += 1;
        return {
          method: "raw",
          sql,
          bindings,
          options,
          __knexQueryUid: `outbox-${statements}`,
        };
      },
    },
  }) as object;
}

/**
 * A statement with named bindings that runs as one of `db.raw` does: on its pool, in its transaction, with its events
 * and its errors. But the text is read once and not at each run, which is most of what knex does for a short one.
 */
export function constantStatement(
  db: Db,
  text: string,
  bindings: Bindings,
  options: DriverOptions = {},
): PromiseLike<unknown> {
  const { sql, values } = bound(db, text, bindings);
  return sql === undefined
    ? db.raw(text, bindings)
    : kindOf(db).statement(db.client as Client, sql, values, options);
}

function kindOf(db: Db): Kind {
  const client = db.client as Client;
  let kind = kinds.get(client.constructor);
  if (kind === undefined) {
    kind = new Kind(db);
    kinds.set(client.constructor, kind);
  }
  return kind;
}

/** A statement as the driver takes it; without its text where that is for knex to make. */
export function bound(
  db: Db,
  text: string,
  bindings: Bindings,
): { sql: string | undefined; values: unknown[] } {
  const client = db.client as Client;
  const { names, sql } = kindOf(db).constant(text, client);
  const values: unknown[] = [];
  for (const name of names) {
    const value = bindings[name];
    // knex leaves an unknown name in the text, where only the database would object.
    if (value === undefined) throw new Error(`the statement names :${name}, which is not bound`);
    values.push(value);
  }
  // A trace of where a statement was made is for knex to take.
  return { sql: client.config?.asyncStackTraces === true ? undefined : sql, values };
}
