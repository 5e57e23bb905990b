import type { Knex } from "knex";
import type { Entity, EntityChange } from "../protocol/entities.ts";
import type { Db, Dialect } from "./dialect.ts";
import { type LockOrMake, lockOrMake } from "./make-row.ts";
import { parseText } from "./rows.ts";
import { int, type Row, transaction, translated } from "./sql.ts";

export interface EntityKey {
  readonly entityType: string;
  readonly entityId: string;
}

/** An update as it is written: JSON columns as text. */
export interface EntityUpdate {
  readonly version: number;
  /** Null: it is deleted. */
  readonly state: string | null;
  readonly previousState: string | null;
  readonly by: string | null;
  /** What the history keeps; undefined: nothing. */
  readonly change:
    | { readonly updates: string | null; readonly previousState: string | null }
    | undefined;
}

type State = Readonly<Record<string, unknown>>;

/** The state of entities, and how it came about. */
export class EntityStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #history: string;
  readonly #lock: LockOrMake;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}entities`;
    this.#history = `${prefix}entity_history`;
    this.#lock = lockOrMake(dialect.name, {
      table: this.#table,
      keys: ["entity_type", "entity_id"],
      idle: "version",
      columns: [
        "entity_type",
        "entity_id",
        "version",
        "state",
        "previous_state",
        "updated_by",
        "updated_at",
      ],
      fresh: { version: "0", updated_at: dialect.now },
    });
  }

  transaction<T>(run: (trx: Db) => Promise<T>, db: Db = this.#knex): Promise<T> {
    return translated(this.#dialect, () => transaction(this.#dialect, db, run));
  }

  /** The entity as it is until the transaction ends, and its version also where it is not there. */
  async lock(trx: Db, key: EntityKey): Promise<{ version: number; entity: Entity | undefined }> {
    return translated(this.#dialect, async () => {
      const row = await this.#lock(trx, at(key));
      return { version: int(row.version), entity: entityOf(row) };
    });
  }

  async get(key: EntityKey, db: Db = this.#knex): Promise<Entity | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await db(this.#table).where(at(key)).first()) as Row | undefined;
      return row && entityOf(row);
    });
  }

  /** Within the transaction that holds the entity. */
  async write(trx: Db, key: EntityKey, update: EntityUpdate): Promise<Entity | undefined> {
    return translated(this.#dialect, async () => {
      const { version, state, previousState, by, change } = update;
      const updated = { updated_by: by, updated_at: trx.raw(this.#dialect.now) };
      await trx(this.#table)
        .where(at(key))
        .update({ version, state, previous_state: previousState, ...updated });
      if (change !== undefined) {
        await trx(this.#history).insert({
          ...at(key),
          version,
          updates: change.updates,
          previous_state: change.previousState,
          ...updated,
        });
      }
      return this.get(key, trx);
    });
  }

  async history(key: EntityKey, after: number, limit: number): Promise<EntityChange[]> {
    return translated(this.#dialect, async () => {
      const rows = await this.#knex(this.#history)
        .where(at(key))
        .where("version", ">", after)
        .orderBy("version")
        .limit(limit);
      return (rows as Row[]).map((row) => ({
        version: int(row.version),
        updates: parseText(row.updates) as State | null,
        previousState: (parseText(row.previous_state) ?? {}) as State,
        updatedBy: (row.updated_by as string | null) ?? null,
        updatedAt: int(row.updated_at),
      }));
    });
  }
}

const at = ({ entityType, entityId }: EntityKey) => ({
  entity_type: entityType,
  entity_id: entityId,
});

function entityOf(row: Row): Entity | undefined {
  const state = parseText(row.state) as State | null;
  if (state === null) return undefined;
  return {
    entityType: String(row.entity_type),
    entityId: String(row.entity_id),
    version: int(row.version),
    state,
    previousState: parseText(row.previous_state) as State | null,
    updatedBy: (row.updated_by as string | null) ?? null,
    updatedAt: int(row.updated_at),
  };
}
