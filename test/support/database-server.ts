import { copyFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { connect } from "../../lib/store/connect.ts";
import { migrate } from "../../lib/store/migrate.ts";

export type DialectName = "sqlite" | "postgres" | "mssql";

/** What the global setup hands to every test file; plain data, because it crosses a process boundary. */
export interface TestRun {
  readonly id: string;
  /** Removed with all that is in it when the run ends. */
  readonly folder: string;
  readonly dialects: DialectName[];
  sqliteTemplate?: string;
  /** A server on which databases can be created. */
  postgresUrl?: string;
  postgresTemplate?: string;
  /** The folder of a PostgreSQL that tests may start servers of their own from. */
  executables?: string;
  mssqlUrl?: string;
}

/** Makes and removes databases on one server; names begin with `outbox_test_` and the run's id. */
export interface DatabaseAdmin {
  /** Returns the new database's URL. */
  create(name: string, options?: { migrated?: boolean }): Promise<string>;
  drop(name: string): Promise<void>;
}

export function databaseAdmin(run: TestRun, dialect: DialectName): DatabaseAdmin {
  return { sqlite: sqliteAdmin, postgres: postgresAdmin, mssql: mssqlAdmin }[dialect](run);
}

function sqliteAdmin(run: TestRun): DatabaseAdmin {
  const file = (name: string) => join(run.folder, `${name}.sqlite`);
  return {
    async create(name, { migrated = false } = {}) {
      if (migrated) await copyFile(required(run.sqliteTemplate), file(name));
      return `sqlite:${file(name)}`;
    },
    async drop(name) {
      for (const suffix of ["", "-wal", "-shm"]) await rm(file(name) + suffix, { force: true });
    },
  };
}

export function postgresAdmin(run: TestRun): DatabaseAdmin & { dropAll(): Promise<void> } {
  const execute = async (sql: string, values: unknown[] = []) => {
    const client = new pg.Client({ connectionString: required(run.postgresUrl) });
    await client.connect();
    try {
      return (await client.query(sql, values)).rows;
    } finally {
      await client.end();
    }
  };
  const drop = async (name: string) => {
    await execute(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`);
  };
  return {
    async create(name, { migrated = false } = {}) {
      const template = migrated ? required(run.postgresTemplate) : "template0";
      await execute(`CREATE DATABASE "${name}" TEMPLATE "${template}"`);
      return withDatabase(required(run.postgresUrl), name);
    },
    drop,
    async dropAll() {
      const rows = await execute("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", [
        `outbox_test_${run.id}_`,
      ]);
      for (const { datname } of rows) await drop(datname);
    },
  };
}

function mssqlAdmin(run: TestRun): DatabaseAdmin {
  const url = required(run.mssqlUrl);
  const execute = async (...statements: string[]) => {
    const { knex } = connect(url);
    try {
      for (const statement of statements) await knex.raw(statement);
    } finally {
      await knex.destroy();
    }
  };
  return {
    async create(name, { migrated = false } = {}) {
      await execute(`CREATE DATABASE [${name}]`);
      const created = withDatabase(url, name);
      if (migrated) {
        // SQL Server cannot copy a database as quickly as it runs the migrations.
        const { knex } = connect(created);
        await migrate(knex).finally(() => knex.destroy());
      }
      return created;
    },
    async drop(name) {
      for (let tries = 1; ; tries++) {
        try {
          await execute(`DROP DATABASE [${name}]`);
          return;
        } catch (error) {
          if (tries === 20) throw error;
          // Somebody is still connected: a process that the test killed, most often. Its connections end by
          // themselves soon; where the server can, it ends them now.
          const alone = `ALTER DATABASE [${name}] SET SINGLE_USER WITH ROLLBACK IMMEDIATE`;
          try {
            await execute(alone, `DROP DATABASE [${name}]`);
            return;
          } catch {
            await sleep(250);
          }
        }
      }
    },
  };
}

function withDatabase(server: string, name: string): string {
  if (!URL.canParse(server)) {
    throw new Error("TEST_POSTGRES_URL and TEST_MSSQL_URL must be URLs: postgres://…, mssql://…");
  }
  const url = new URL(server);
  url.pathname = `/${name}`;
  return url.href;
}

function required<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("the global setup did not provide this database");
  return value;
}
