import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { Knex } from "knex";
import { afterAll, beforeAll, describe, inject } from "vitest";
import { connect } from "../../lib/store/connect.ts";
import { type DialectName, databaseAdmin } from "./database-server.ts";
import { createPostgres, type PostgresServer } from "./postgres-server.ts";

export interface FreshDatabase {
  readonly url: string;
  /** Connects with the first statement; closed when the suite ends. */
  readonly knex: Knex;
}

/** A migrated database that belongs to one suite, and as many more as it asks for. */
export interface TestDatabase {
  readonly dialect: DialectName;
  /** The suite's own database, for a process or an `openOutbox` of the test. From `beforeAll` on. */
  url(): string;
  knex(): Knex;
  /** One more migrated database, empty. */
  fresh(): Promise<FreshDatabase>;
  /** A database without any table. */
  unmigrated(): Promise<FreshDatabase>;
}

const run = inject("run");

/**
 * The one way to test a behaviour on every database: the suite runs once per database that this run has
 * (`DIALECTS=sqlite,postgres,mssql` chooses), each time with a database of its own.
 */
export function eachDatabase(title: string, suite: (database: TestDatabase) => void): void {
  describe.each(run.dialects)(`${title} on %s`, (dialect) => {
    const databases = disposableDatabases(dialect);
    let own: FreshDatabase | undefined;
    const ready = (): FreshDatabase => {
      if (own === undefined) throw new Error("the database is there from beforeAll on");
      return own;
    };
    beforeAll(async () => {
      own = await databases.open({ migrated: true });
    });
    afterAll(() => databases.dispose());
    suite({
      dialect,
      url: () => ready().url,
      knex: () => ready().knex,
      fresh: () => databases.open({ migrated: true }),
      unmigrated: () => databases.open({ migrated: false }),
    });
  });
}

function disposableDatabases(dialect: DialectName) {
  const admin = databaseAdmin(run, dialect);
  const opened: { name: string; knex: Knex }[] = [];
  return {
    async open(options: { migrated: boolean }): Promise<FreshDatabase> {
      const name = `outbox_test_${run.id}_${randomBytes(6).toString("hex")}`;
      const url = await admin.create(name, options);
      const { knex } = connect(url);
      opened.push({ name, knex });
      return { url, knex };
    },
    async dispose(): Promise<void> {
      for (const { name, knex } of opened.splice(0)) {
        await knex.destroy();
        await admin.drop(name);
      }
    },
  };
}

/** False where no PostgreSQL can be started and stopped at will; name the reason when skipping for it. */
export const canOwnPostgres = run.dialects.includes("postgres") && run.executables !== undefined;

/**
 * A running PostgreSQL server of the test's own, to stop, kill and start again. Without tables. The caller
 * disposes of it; if the test process dies, the server ends with it.
 */
export async function ownPostgres(): Promise<PostgresServer> {
  if (run.executables === undefined) throw new Error("no PostgreSQL server is installed");
  const folder = join(run.folder, `server-${randomBytes(6).toString("hex")}`);
  const server = await createPostgres(run.executables, folder);
  await server.start();
  return server;
}
