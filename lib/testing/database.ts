import knexFactory, { type Knex } from "knex";
import { connect, knexConfig } from "../store/connect.ts";
import { dialectFor } from "../store/dialects.ts";
import { migrate } from "../store/migrate.ts";
import type { VirtualTime } from "./clock.ts";
import { type FaultPoint, pointOf } from "./statements.ts";

/** The parts of knex's client that are stepped into; it has no types of its own for them. */
interface Client {
  config: object;
  acquireConnection(): Promise<Connection>;
  releaseConnection(connection: Connection): Promise<void>;
  _query(connection: Connection, statement: Statement): Promise<unknown>;
}

interface Connection {
  __knexTxId?: string;
  run(sql: string, done: (error: Error | null) => void): void;
  wait(done: () => void): void;
}

interface Statement {
  sql: string;
}

/** Says what is to go wrong with a statement, before it is sent. */
export type FaultHook = (process: string, point: FaultPoint | undefined) => Promise<void>;

/** As a driver says it when the other end is gone. */
export function connectionLost(what: string): Error {
  return Object.assign(new Error(`${what}: Connection terminated unexpectedly`), {
    code: "ECONNRESET",
  });
}

const SETTINGS = knexConfig("sqlite::memory:");

type State = "alive" | "frozen" | "dead";

/**
 * One of the processes of a test's world: a knex of its own on the shared database, which can be cut off from it
 * as a crash, a freeze or a lost network would.
 */
export class Connected {
  readonly name: string;
  readonly knex: Knex;
  readonly #shared: Shared;
  readonly #held = new Set<Connection>();
  #state: State = "alive";
  #thawed: Promise<void> | undefined;
  #thaw: (() => void) | undefined;
  /** Statements and transactions that are under way, or wait for the connection. */
  #active = 0;
  /** Statements that were answered, well or not. */
  answered = 0;
  #failingSince: number | undefined;
  #recoversAt = 0;

  constructor(name: string, shared: Shared) {
    this.name = name;
    this.#shared = shared;
    this.knex = knexFactory({ ...SETTINGS, client: this.#client() });
    // One configuration is one database: that is how the library recognises it.
    (this.knex.client as Client).config = shared.client.config;
  }

  get state(): State {
    return this.#state;
  }

  get active(): number {
    return this.#active;
  }

  /** Whether a worker may still be waiting, in real time, because a statement failed. */
  get recovering(): boolean {
    return performance.now() < this.#recoversAt;
  }

  /** Nothing reaches the database any more; an open transaction is undone, as a server does for a dead client. */
  async kill(): Promise<void> {
    this.#state = "dead";
    this.#thaw?.();
    for (const connection of [...this.#held]) {
      this.#held.delete(connection);
      delete connection.__knexTxId;
      // After the statement that is under way; outside a transaction it does nothing.
      await new Promise<void>((done) => {
        connection.wait(() => connection.run("ROLLBACK", () => done()));
      });
      await this.#shared.client.releaseConnection(connection);
    }
  }

  freeze(): void {
    if (this.#state !== "alive") return;
    this.#state = "frozen";
    this.#thawed = new Promise((resolve) => {
      this.#thaw = resolve;
    });
  }

  thaw(): void {
    if (this.#state === "frozen") this.#state = "alive";
    this.#thaw?.();
  }

  /** A client of the database's kind whose connections are the shared ones. */
  #client(): typeof Knex.Client {
    const process = this;
    const Base = this.#shared.base;
    return class extends Base {
      override acquireConnection() {
        return process.#acquire();
      }
      override releaseConnection(connection: Connection) {
        return process.#release(connection);
      }
      override _query(connection: Connection, statement: Statement) {
        return process.#query((sql) => super._query(connection, sql), connection, statement);
      }
    } as unknown as typeof Knex.Client;
  }

  async #acquire(): Promise<Connection> {
    if (this.#state === "frozen") await this.#thawed;
    await this.#unlessDead();
    this.#active++;
    try {
      const connection = await this.#shared.client.acquireConnection();
      // Without a pause between the two: it may be killed in any.
      if (this.#state !== "dead") this.#held.add(connection);
      else await this.#shared.client.releaseConnection(connection);
      await this.#unlessDead();
      return connection;
    } catch (error) {
      this.#active--;
      throw error;
    }
  }

  async #release(connection: Connection): Promise<void> {
    this.#active--;
    // Taken from it when it was killed.
    if (!this.#held.delete(connection)) return;
    await this.#shared.client.releaseConnection(connection);
  }

  async #query(
    send: (statement: Statement) => Promise<unknown>,
    connection: Connection,
    statement: Statement,
  ): Promise<unknown> {
    const { hook, prefix } = this.#shared;
    try {
      await this.#unlessDead();
      // What ends a transaction always gets through, or the one connection would stay in it.
      if (!/^(rollback|commit)/i.test(statement.sql)) {
        await hook(this.name, pointOf(statement.sql, prefix)).catch((error) => this.#failed(error));
        await this.#unlessDead();
        if (!this.recovering) this.#failingSince = undefined;
      }
      if (!this.#held.has(connection)) await this.#unlessDead();
      statement.sql = this.#shared.atVirtualTime(statement.sql);
      return await send(statement);
    } finally {
      this.answered++;
    }
  }

  /** Workers leave a failing database alone for about as long as it has failed. */
  #failed(error: unknown): never {
    const now = performance.now();
    this.#failingSince ??= now;
    this.#recoversAt = now + Math.min(5_000, Math.max(120, 2 * (now - this.#failingSince)));
    throw error;
  }

  /** A dead process never gets an answer: what it was about to do next does not happen. */
  async #unlessDead(): Promise<void> {
    if (this.#state === "dead") await new Promise<never>(() => {});
  }
}

interface Shared {
  /** knex's client for SQLite. */
  readonly base: new (
    config: object,
  ) => Client;
  readonly client: Client;
  readonly hook: FaultHook;
  readonly prefix: string;
  atVirtualTime(sql: string): string;
}

/** A database in memory whose clock stands where the test's world does. */
export class TestDatabase {
  /** For the kit's own looks: no fault ever touches it. */
  readonly knex: Knex;
  readonly prefix: string;
  readonly #shared: Shared;
  readonly #processes: Connected[] = [];

  constructor(time: VirtualTime, prefix: string, hook: FaultHook) {
    const clock = dialectFor("sqlite", prefix).now;
    const atVirtualTime = (sql: string) => sql.replaceAll(clock, String(time.now));
    // Opens nothing, but says which package is missing.
    const { client: sample } = connect("sqlite::memory:").knex;
    const base = sample.constructor as Shared["base"];
    // A class, because knex makes the clients of its transactions from the prototype.
    class Root extends base {
      override _query(connection: Connection, statement: Statement) {
        statement.sql = atVirtualTime(statement.sql);
        return super._query(connection, statement);
      }
    }
    this.knex = knexFactory({ ...SETTINGS, client: Root as unknown as typeof Knex.Client });
    this.prefix = prefix;
    const client = this.knex.client as Client;
    this.#shared = { base, client, hook, prefix, atVirtualTime };
  }

  async migrate(): Promise<void> {
    await migrate(this.knex, { prefix: this.prefix });
  }

  process(name: string): Connected {
    const process = new Connected(name, this.#shared);
    this.#processes.push(process);
    return process;
  }

  /** Whether nothing is under way that will go on by itself. */
  get quiet(): boolean {
    return this.#processes.every(({ active, state }) => active === 0 || state === "dead");
  }

  get answered(): number {
    return this.#processes.reduce((sum, { answered }) => sum + answered, 0);
  }

  /** Grows with every row that a statement changes. */
  async changes(): Promise<number> {
    const [row] = (await this.knex.raw("SELECT total_changes() AS n")) as { n: number }[];
    return row?.n ?? 0;
  }

  async close(): Promise<void> {
    for (const process of this.#processes) process.thaw();
    await this.knex.destroy();
  }
}
