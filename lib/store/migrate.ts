import knexFactory, { type Knex } from "knex";
import {
  DEFAULT_PREFIX,
  type Migration,
  migrationContext,
  migrations,
} from "../../migrations/index.ts";
import { AgentCommunicationError } from "../errors.ts";
import { connect } from "./connect.ts";
import type { Db, DialectName } from "./dialect.ts";
import { dialectFor } from "./dialects.ts";
import { query, retried, translated } from "./sql.ts";

export interface MigrateOptions {
  /** What the table names begin with. Default "outbox_". */
  readonly prefix?: string;
}

export interface MigrationStatus {
  readonly name: string;
  readonly state: "applied" | "pending" | "unknown";
  /** When it was applied; null while pending. */
  readonly appliedAt: string | null;
}

function open(knex: Knex, options: MigrateOptions) {
  const { dialect: name } = connect(knex);
  const prefix = options.prefix ?? DEFAULT_PREFIX;
  return {
    dialect: dialectFor(name, prefix),
    context: migrationContext(name, prefix),
    table: `${prefix}migrations`,
  };
}

function createTable(schema: Knex.SchemaBuilder, table: string): Knex.SchemaBuilder {
  return schema.createTable(table, (columns) => {
    columns.increments();
    columns.string("name");
    columns.integer("batch");
    columns.timestamp("migration_time");
  });
}

/** knex's own table, so that `npx knex migrate:list` and this command tell the same. */
async function ensureTable(knex: Knex, table: string): Promise<void> {
  if (await knex.schema.hasTable(table)) return;
  try {
    await createTable(knex.schema, table);
  } catch (error) {
    // Another process was faster: its table is as good.
    if (!(await knex.schema.hasTable(table))) throw error;
  }
}

interface Applied {
  readonly name: string;
  readonly batch: number;
  readonly migration_time: Date | string | number | null;
}

async function applied(db: Db, table: string): Promise<Applied[]> {
  return db(table).select("name", "batch", "migration_time").orderBy("id");
}

function refuseNewer(names: readonly string[]): void {
  const known = new Set(migrations.map(({ name }) => name));
  const unknown = names.filter((name) => !known.has(name));
  if (unknown.length > 0) {
    throw new AgentCommunicationError(
      "NEWER_DATABASE",
      `the database has migrations that this version does not know: ${unknown.join(", ")}`,
      { details: { unknown } },
    );
  }
}

/** Runs `change` in one transaction that no other migrator runs beside; DDL is transactional on all three. */
async function locked<T>(
  knex: Knex,
  options: MigrateOptions,
  change: (trx: Knex.Transaction, names: Applied[]) => Promise<T>,
): Promise<T> {
  const { dialect, table } = open(knex, options);
  return translated(dialect, async () => {
    await retried(dialect, () => ensureTable(knex, table));
    return retried(dialect, () =>
      knex.transaction(async (trx) => {
        // A write that changes nothing: on SQLite it is the lock.
        await trx(table).whereRaw("1 = 0").del();
        await dialect.lock(trx, `agent-outbox:${table}`);
        const done = await applied(trx, table);
        refuseNewer(done.map(({ name }) => name));
        return change(trx, done);
      }),
    );
  });
}

/**
 * Brings the database to this version: every pending migration, all or none, under a lock, so that any number
 * of processes may start at once. Returns the names it applied.
 *
 * @throws AgentCommunicationError NEWER_DATABASE when a newer version migrated it.
 */
export async function migrate(knex: Knex, options: MigrateOptions = {}): Promise<string[]> {
  const { dialect, context, table } = open(knex, options);
  // The common case, an up-to-date database, takes no lock.
  const before = await translated(dialect, () => migrationStatus(knex, options));
  refuseNewer(before.filter(({ state }) => state === "unknown").map(({ name }) => name));
  if (before.every(({ state }) => state === "applied")) return [];
  return locked(knex, options, async (trx, done) => {
    const names = new Set(done.map(({ name }) => name));
    const batch = Math.max(0, ...done.map((row) => row.batch)) + 1;
    const pending = migrations.filter(({ name }) => !names.has(name));
    for (const migration of pending) {
      await migration.up(trx.schema, context);
      await trx(table).insert({ name: migration.name, batch, migration_time: new Date() });
    }
    return pending.map(({ name }) => name);
  });
}

/** Takes back the last `steps` migrations, with the data in their tables. Returns their names. */
export async function migrateDown(
  knex: Knex,
  options: MigrateOptions & { steps?: number } = {},
): Promise<string[]> {
  const { context, table } = open(knex, options);
  return locked(knex, options, async (trx, done) => {
    const names = new Set(done.map(({ name }) => name));
    const last = migrations.filter(({ name }) => names.has(name)).slice(-(options.steps ?? 1));
    for (const migration of last.reverse()) {
      await migration.down(trx.schema, context);
      await trx(table).where({ name: migration.name }).del();
    }
    return last.map(({ name }) => name);
  });
}

export async function migrationStatus(
  knex: Knex,
  options: MigrateOptions = {},
): Promise<MigrationStatus[]> {
  const { dialect, table } = open(knex, options);
  return translated(dialect, async () => {
    const rows = (await knex.schema.hasTable(table)) ? await applied(knex, table) : [];
    const times = new Map(rows.map((row) => [row.name, row.migration_time]));
    const known = migrations.map(({ name }): MigrationStatus => {
      const time = times.get(name);
      return {
        name,
        state: times.has(name) ? "applied" : "pending",
        appliedAt: time === undefined || time === null ? null : new Date(time).toISOString(),
      };
    });
    const names = new Set(known.map(({ name }) => name));
    const unknown = rows
      .filter(({ name }) => !names.has(name))
      .map(({ name }): MigrationStatus => ({ name, state: "unknown", appliedAt: null }));
    return [...known, ...unknown];
  });
}

/** @throws AgentCommunicationError NOT_MIGRATED or NEWER_DATABASE; each names the command to run. */
export async function checkMigrated(db: Db, dialect: DialectName, prefix: string): Promise<void> {
  const table = `${prefix}migrations`;
  const sql = dialectFor(dialect, prefix);
  const names = await translated(sql, async () =>
    (await query<{ name: string }>(db, `SELECT name FROM ${table}`)).map(({ name }) => name),
  );
  refuseNewer(names);
  const pending = migrations.filter(({ name }) => !names.includes(name)).map(({ name }) => name);
  if (pending.length > 0) {
    throw new AgentCommunicationError(
      "NOT_MIGRATED",
      `the database lacks the migrations ${pending.join(", ")}`,
      { details: { pending } },
    );
  }
}

/** The look at the schema that the first call of a queue, registry or supervisor pays, and only that one. */
export class SchemaCheck {
  readonly #knex: Knex;
  readonly #dialect: DialectName;
  readonly #prefix: string;
  #passed = false;

  constructor(knex: Knex, dialect: DialectName, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#prefix = prefix;
  }

  /**
   * Not in a caller's transaction: it may hold the only connection, and on SQLite a read before its first write
   * could make that write fail. A missing table is told by the statement itself.
   *
   * @throws AgentCommunicationError NOT_MIGRATED, NEWER_DATABASE
   */
  async ensure(tx?: unknown): Promise<void> {
    if (this.#passed || tx !== undefined) return;
    await checkMigrated(this.#knex, this.#dialect, this.#prefix);
    this.#passed = true;
  }
}

const CLIENTS: Record<DialectName, string> = { postgres: "pg", mssql: "mssql", sqlite: "sqlite3" };

function compiled(
  dialect: DialectName,
  build: (schema: Knex.SchemaBuilder) => Knex.SchemaBuilder,
): string[] {
  const knex = knexFactory({ client: CLIENTS[dialect], useNullAsDefault: true });
  const sql = build(knex.schema).toSQL();
  return ((Array.isArray(sql) ? sql : [sql]) as { sql: string }[]).map(({ sql: text }) =>
    text.trim(),
  );
}

function statements(migration: Migration, dialect: DialectName, prefix: string): string[] {
  return compiled(dialect, (schema) => migration.up(schema, migrationContext(dialect, prefix)));
}

/** The SQL of migrations, without a database: what `schema` prints and `migrate --dry-run` shows. */
export function migrationSql(
  dialect: DialectName,
  options: MigrateOptions & { names?: readonly string[] } = {},
): { name: string; statements: string[] }[] {
  return migrations
    .filter(({ name }) => options.names?.includes(name) ?? true)
    .map((migration) => ({
      name: migration.name,
      statements: statements(migration, dialect, options.prefix ?? DEFAULT_PREFIX),
    }));
}

/** As `migrate` writes it: knex keeps a date as milliseconds on SQLite. */
const APPLIED_AT: Record<DialectName, string> = {
  postgres: "CURRENT_TIMESTAMP",
  mssql: "SYSUTCDATETIME()",
  sqlite: "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)",
};

/** SQL Server wants each view in a batch of its own; `GO` is how its tools are told. */
const END: Record<DialectName, string> = { postgres: ";", mssql: ";\nGO", sqlite: ";" };

/** sqlcmd switches it off, and then SQL Server refuses to make an index with a WHERE. */
const BEGINNING: Record<DialectName, string> = {
  postgres: "",
  mssql: "SET QUOTED_IDENTIFIER ON;\nGO\n\n",
  sqlite: "",
};

/**
 * The whole schema as one script, with the note of what it applied: who runs it by hand has a migrated database.
 */
export function schemaSql(dialect: DialectName, options: MigrateOptions = {}): string {
  const titles: Record<DialectName, string> = {
    postgres: "PostgreSQL",
    mssql: "SQL Server",
    sqlite: "SQLite",
  };
  const table = `${options.prefix ?? DEFAULT_PREFIX}migrations`;
  const made = migrationSql(dialect, options);
  const noted = [
    ...compiled(dialect, (schema) => createTable(schema, table)),
    ...made.map(
      ({ name }) =>
        `INSERT INTO ${table} (name, batch, migration_time) VALUES ('${name}', 1, ${APPLIED_AT[dialect]})`,
    ),
  ];
  const parts = [...made, { name: "what was applied", statements: noted }].map(
    ({ name, statements: list }) =>
      `-- ${name}\n${list.map((statement) => `${statement}${END[dialect]}`).join("\n")}\n`,
  );
  return `-- The tables of agent-outbox for ${titles[dialect]}, generated from migrations/ (npm run schema). Do not edit.\n\n${BEGINNING[dialect]}${parts.join("\n")}`;
}
