import type { Knex } from "knex";

/** What a migration is told about where it runs. */
export interface MigrationContext {
  readonly dialect: "postgres" | "mssql" | "sqlite";
  /** The full name of a table, index or view of this installation. */
  name(base: string): string;
}

type Table = Knex.CreateTableBuilder;

/**
 * Column types that the three databases write differently. Ids compare byte by byte everywhere: SQL Server's
 * default collation would take `Agent` and `agent` for one mailbox.
 */
export class Columns {
  readonly #table: Table;
  readonly #dialect: MigrationContext["dialect"];

  constructor(table: Table, context: MigrationContext) {
    this.#table = table;
    this.#dialect = context.dialect;
  }

  /** A growing number that is also the primary key. */
  identity(name: string): void {
    if (this.#dialect === "postgres") {
      this.#table.specificType(name, "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY");
    } else if (this.#dialect === "mssql") {
      this.#table.specificType(name, "bigint IDENTITY(1,1) NOT NULL PRIMARY KEY");
    } else {
      // AUTOINCREMENT: a sequence number is never handed out twice, also after its row was deleted.
      this.#table.specificType(name, "integer PRIMARY KEY AUTOINCREMENT");
    }
  }

  /** Text that is compared and indexed. */
  key(name: string, length = 128): Knex.ColumnBuilder {
    if (this.#dialect === "mssql") {
      return this.#table.specificType(name, `nvarchar(${length}) COLLATE Latin1_General_100_BIN2`);
    }
    // "C": no locale may order or equate ids, and comparison is a memcmp.
    if (this.#dialect === "postgres") {
      return this.#table.specificType(name, `varchar(${length}) COLLATE "C"`);
    }
    return this.#table.specificType(name, `varchar(${length})`);
  }

  /** Text for people. */
  text(name: string): Knex.ColumnBuilder {
    return this.#table.specificType(name, this.#dialect === "mssql" ? "nvarchar(max)" : "text");
  }

  json(name: string): Knex.ColumnBuilder {
    return this.#table.specificType(
      name,
      { postgres: "jsonb", mssql: "nvarchar(max)", sqlite: "text" }[this.#dialect],
    );
  }

  /** Milliseconds since the epoch, by the database's clock. */
  instant(name: string): Knex.ColumnBuilder {
    return this.#table.bigInteger(name);
  }
}

/**
 * Takes columns away. SQL Server keeps a default as a constraint, which goes first: by the name that knex gives it,
 * because looking the name up in the catalogue finds nothing outside the schema "dbo".
 */
export function dropColumns(
  schema: Knex.SchemaBuilder,
  table: string,
  columns: readonly string[],
  { dialect }: MigrationContext,
): Knex.SchemaBuilder {
  for (const column of columns) {
    if (dialect === "mssql") {
      const constraint = `${table}_${column}_default`.toLowerCase();
      schema.raw(`ALTER TABLE ${table} DROP CONSTRAINT IF EXISTS ${constraint}`);
    }
    schema.raw(`ALTER TABLE ${table} DROP COLUMN ${column}`);
  }
  return schema;
}

/** An expression that shows an instant to people. */
export function readable(column: string, context: MigrationContext): string {
  switch (context.dialect) {
    case "postgres":
      return `to_timestamp(${column} / 1000.0)`;
    case "mssql":
      // In two steps: DATEADD takes an int, and milliseconds since 1970 are more than that.
      return `DATEADD(MILLISECOND, CAST(${column} % 60000 AS int), DATEADD(MINUTE, CAST(${column} / 60000 AS int), CAST('1970-01-01' AS datetime2(3))))`;
    case "sqlite":
      return `strftime('%Y-%m-%dT%H:%M:%fZ', ${column} / 1000.0, 'unixepoch')`;
  }
}
