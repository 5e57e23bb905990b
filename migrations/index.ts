import type { Knex } from "knex";
import * as messages from "./001_messages.ts";
import * as agents from "./002_agents.ts";
import * as tasks from "./003_tasks.ts";
import * as queueDepth from "./004_queue_depth.ts";
import * as schedules from "./005_schedules.ts";
import * as deadLetters from "./006_dead_letters.ts";
import * as flow from "./007_flow.ts";
import * as agentDepth from "./008_agents.ts";
import * as taskLife from "./009_tasks.ts";
import * as workflows from "./010_workflows.ts";
import * as handoffs from "./011_handoffs.ts";
import * as changes from "./012_changes.ts";
import * as system from "./013_system.ts";
import * as state from "./014_state.ts";
import * as auctions from "./015_auctions.ts";
import * as copy from "./016_copy.ts";
import type { MigrationContext } from "./columns.ts";

export type { MigrationContext } from "./columns.ts";

export interface Migration {
  /** Recorded in the database, without a file extension: the same in development (.ts) and production (.js). */
  readonly name: string;
  up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder;
  down(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder;
}

/** In order, append only. A migration is never edited after it was released. */
export const migrations: readonly Migration[] = [
  { name: "001_messages", ...messages },
  { name: "002_agents", ...agents },
  { name: "003_tasks", ...tasks },
  { name: "004_queue_depth", ...queueDepth },
  { name: "005_schedules", ...schedules },
  { name: "006_dead_letters", ...deadLetters },
  { name: "007_flow", ...flow },
  { name: "008_agents", ...agentDepth },
  { name: "009_tasks", ...taskLife },
  { name: "010_workflows", ...workflows },
  { name: "011_handoffs", ...handoffs },
  { name: "012_changes", ...changes },
  { name: "013_system", ...system },
  { name: "014_state", ...state },
  { name: "015_auctions", ...auctions },
  { name: "016_copy", ...copy },
];

export const DEFAULT_PREFIX = "outbox_";

export function migrationContext(
  dialect: MigrationContext["dialect"],
  prefix: string = DEFAULT_PREFIX,
): MigrationContext {
  return { dialect, name: (base) => `${prefix}${base}` };
}

/** The same list for knex's own migrator (`npx knex migrate:latest`). */
export function migrationSource(
  dialect: MigrationContext["dialect"],
  prefix: string = DEFAULT_PREFIX,
): Knex.MigrationSource<Migration> {
  const context = migrationContext(dialect, prefix);
  return {
    // knex's migrate:list prints `file` of what is pending.
    getMigrations: async () =>
      migrations.map((migration) => ({ ...migration, file: migration.name })),
    getMigrationName: (migration) => migration.name,
    getMigration: async (migration) => ({
      up: async (knex: Knex) => {
        await migration.up(knex.schema, context);
      },
      down: async (knex: Knex) => {
        await migration.down(knex.schema, context);
      },
    }),
  };
}
