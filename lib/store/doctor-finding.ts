import type { Knex } from "knex";

/** `unknown`: the database does not tell this user. */
export type Level = "ok" | "warning" | "problem" | "unknown";

export interface Finding {
  readonly level: Level;
  /** What was found, in one sentence. */
  readonly found: string;
  /** What to do; null when there is nothing to do. */
  readonly remedy: string | null;
}

export interface Check {
  readonly name: string;
  run(): Promise<Finding>;
}

/** A secondary index as the catalogue has it. */
export interface FoundIndex {
  readonly name: string;
  readonly table: string;
  readonly unique: boolean;
  /** In order; descending ones with ` DESC`. */
  readonly columns: readonly string[];
  /** False for one whose making failed half-way. */
  readonly valid: boolean;
}

/** What only one database can be asked. */
export interface DoctorDialect {
  /** The product, and the least version that works. */
  readonly product: string;
  readonly driver: { readonly package: string; readonly minimum: string };
  /** The server's version, as people write it, and whether it is new enough. */
  version(
    knex: Knex,
  ): Promise<{ readonly version: string; readonly minimum: string; readonly good: boolean }>;
  /** Rows of index, column by column: index_name, table_name, is_unique, is_valid, column_name, is_desc. */
  readonly indexes: string;
  checks(knex: Knex, prefix: string): Check[];
}

export const ok = (found: string): Finding => ({ level: "ok", found, remedy: null });
export const warning = (found: string, remedy: string): Finding => ({
  level: "warning",
  found,
  remedy,
});
export const problem = (found: string, remedy: string): Finding => ({
  level: "problem",
  found,
  remedy,
});
export const unknown = (found: string): Finding => ({ level: "unknown", found, remedy: null });
