import type { Knex } from "knex";
import {
  type Entity,
  type EntityChange,
  entityKey,
  historyOfStateSchema,
  MOST_STATE_BYTES,
  matches,
  merged,
  previousOf,
  type StateHistoryOptions,
  type UpdateStateOptions,
  updateStateSchema,
  updatesSchema,
} from "../protocol/entities.ts";
import { given } from "../protocol/given.ts";
import { MessageType } from "../protocol/types.ts";
import { jsonDocument, parse } from "../protocol/validate.ts";
import type { TxOption } from "../queue/claimed.ts";
import type { MessageQueueManager } from "../queue/manager.ts";
import type { Db, Dialect } from "../store/dialect.ts";
import { type EntityKey, EntityStore } from "../store/entities.ts";
import { joined } from "../store/identity.ts";
import type { SchemaCheck } from "../store/migrate.ts";

type Tx = NonNullable<TxOption["tx"]>;
type State = Readonly<Record<string, unknown>>;

export interface UpdateOptions extends UpdateStateOptions, TxOption {}

export type StateOutcome =
  | {
      readonly outcome: "updated" | "deleted";
      /** As it is now; after a deletion, as it was. */
      readonly entity: Entity;
      /** What the updated members were before; null for those that were not there. */
      readonly previousState: State;
    }
  | {
      /** It was not as expected: nothing was stored, and nothing sent. */
      readonly outcome: "conflict";
      /** As it is; null: it is not there. */
      readonly entity: Entity | null;
    };

/** The state of things that agents work on: updated by compare-and-set, told in the same commit. */
export class EntityStates {
  readonly #knex: Knex;
  readonly #schema: SchemaCheck;
  readonly #queue: MessageQueueManager;
  readonly #store: EntityStore;

  /** @internal Use Outbox.state. */
  constructor(
    knex: Knex,
    dialect: Dialect,
    schema: SchemaCheck,
    { queue, prefix }: { queue: MessageQueueManager; prefix: string },
  ) {
    this.#knex = knex;
    this.#schema = schema;
    this.#queue = queue;
    this.#store = new EntityStore(knex, dialect, prefix);
  }

  /** The entity; null when there is none. In the caller's transaction where `tx` is given. */
  async get(entityType: string, entityId: string, options: TxOption = {}): Promise<Entity | null> {
    const { tx } = given(options);
    const key = keyOf(entityType, entityId);
    const db = joined(this.#knex, tx);
    await this.#schema.ensure(tx);
    return (await this.#store.get(key, db)) ?? null;
  }

  /**
   * Merges updates into the state (JSON merge patch: null takes a member away), and makes the entity where it is
   * not there. Where `expectPrevious` or `expectVersion` do not hold, nothing changes, and the answer is `conflict`
   * with the state as it is. STATE_UPDATE goes to `notify` in the same commit.
   *
   * @throws ValidationFailed, PayloadTooLarge when the state would be above 1 MB
   */
  async update(
    entityType: string,
    entityId: string,
    updates: Readonly<Record<string, unknown>>,
    options: UpdateOptions = {},
  ): Promise<StateOutcome> {
    const checked = parse(updatesSchema, updates, "updates");
    jsonDocument(checked, "updates", MOST_STATE_BYTES);
    return this.#change(keyOf(entityType, entityId), checked, options);
  }

  /** Takes an entity away, on the same conditions. Its version and its history stay. */
  async delete(
    entityType: string,
    entityId: string,
    options: UpdateOptions = {},
  ): Promise<StateOutcome> {
    return this.#change(keyOf(entityType, entityId), null, options);
  }

  /** The updates of an entity, the oldest first; those with `history: false` are not in it. */
  async history(
    entityType: string,
    entityId: string,
    options: StateHistoryOptions = {},
  ): Promise<EntityChange[]> {
    const key = keyOf(entityType, entityId);
    const { after, limit } = parse(historyOfStateSchema, given(options), "options");
    await this.#schema.ensure();
    return this.#store.history(key, after, limit);
  }

  async #change(
    key: EntityKey,
    updates: State | null,
    { tx, ...rest }: UpdateOptions,
  ): Promise<StateOutcome> {
    const settings = parse(updateStateSchema, given(rest), "options");
    const db = joined(this.#knex, tx);
    await this.#schema.ensure(tx);
    return this.#store.transaction(async (trx) => {
      const { version, entity } = await this.#store.lock(trx, key);
      const { expectPrevious, expectVersion, by = null } = settings;
      const expected =
        (expectVersion === undefined || expectVersion === (entity?.version ?? 0)) &&
        (expectPrevious === undefined || matches(entity?.state ?? null, expectPrevious));
      // There is nothing to take away.
      if (!expected || (updates === null && entity === undefined)) {
        return { outcome: "conflict", entity: entity ?? null };
      }
      const state = updates === null ? null : merged(entity?.state ?? {}, updates);
      const told = previousOf(entity?.state ?? null, updates ?? entity?.state ?? {});
      const text = (value: unknown) =>
        value === null ? null : jsonDocument(value, "state", MOST_STATE_BYTES);
      const written = await this.#store.write(trx, key, {
        version: version + 1,
        state: text(state),
        previousState: text(entity?.state ?? null),
        by,
        change: settings.history
          ? { updates: text(updates), previousState: text(told) }
          : undefined,
      });
      await this.#tell(trx, key, { updates, previous: told, by, notify: settings.notify });
      return {
        outcome: updates === null ? "deleted" : "updated",
        entity: written ?? (entity as Entity),
        previousState: told,
      };
    }, db);
  }

  async #tell(
    trx: Db,
    { entityType, entityId }: EntityKey,
    change: {
      readonly updates: State | null;
      readonly previous: State;
      readonly by: string | null;
      readonly notify: readonly string[];
    },
  ): Promise<void> {
    if (change.notify.length === 0) return;
    const content = {
      entity_type: entityType,
      entity_id: entityId,
      updates: change.updates,
      previous_state: change.previous,
    };
    await this.#queue.sendMessages(
      [...new Set(change.notify)].map((toAgent) => ({
        ...(change.by === null ? {} : { fromAgent: change.by }),
        toAgent,
        messageType: MessageType.STATE_UPDATE,
        content,
      })),
      { tx: trx as Tx },
    );
  }
}

function keyOf(entityType: string, entityId: string): EntityKey {
  return {
    entityType: parse(entityKey.entityType, entityType, "entityType"),
    entityId: parse(entityKey.entityId, entityId, "entityId"),
  };
}
