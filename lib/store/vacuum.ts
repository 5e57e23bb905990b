import type { Knex } from "knex";
import type { Dialect, DialectName } from "./dialect.ts";
import { postgresVacuuming } from "./postgres-vacuum.ts";

/** What is known of a table that may be vacuumed; its counts are estimates. */
export interface TableState {
  readonly table: string;
  /** Rows that were updated or deleted, and that no vacuum has removed yet. */
  readonly dead: number;
  readonly live: number;
  /** Rows that were ever updated or deleted; it only grows. */
  readonly changes: number;
  /** How often it was ever vacuumed, by whomever. */
  readonly vacuums: number;
  /** How long ago the last time was; null: never. */
  readonly vacuumedMs: number | null;
  /** This account may vacuum it, and nobody does so now, or holds a lock that a vacuum would have to wait for. */
  readonly free: boolean;
}

/** For a database that leaves old versions of rows in the table until somebody looks for them. */
export interface Vacuuming {
  /** The tables whose rows come and go. */
  look(): Promise<TableState[]>;
  /** Makes the place of dead rows free for new ones. Stops nobody from reading or writing. */
  vacuum(table: string): Promise<void>;
}

type Make = (knex: Knex, dialect: Dialect, prefix: string) => Vacuuming;

/** The others use the place of a row again by themselves. */
const VACUUMING: Record<DialectName, Make | undefined> = {
  postgres: postgresVacuuming,
  mssql: undefined,
  sqlite: undefined,
};

export function vacuumingOf(knex: Knex, dialect: Dialect, prefix: string): Vacuuming | undefined {
  return VACUUMING[dialect.name]?.(knex, dialect, prefix);
}
