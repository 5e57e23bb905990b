import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Knex } from "knex";
import type { z } from "zod";
import { AlreadyExists, PayloadTooLarge, VersionConflict } from "../errors.ts";
import {
  appendSchema,
  type FollowOptions,
  followSchema,
  type LoadOptions,
  loadSchema,
  MOST_APPEND_BYTES,
  MOST_EVENT_BYTES,
  MOST_EVENT_METADATA_BYTES,
  MOST_SNAPSHOT_BYTES,
  type NewEvent,
  newEventList,
  type ProjectOptions,
  type Publish,
  projectSchema,
  type ReadAllOptions,
  readAllSchema,
  type StoredEvent,
} from "../protocol/event-store.ts";
import { given } from "../protocol/given.ts";
import type { MessageInput } from "../protocol/message-input.ts";
import { id, jsonDocument, jsonText, parse } from "../protocol/validate.ts";
import type { TxOption } from "../queue/claimed.ts";
import type { MessageQueueManager } from "../queue/manager.ts";
import { AggregateStore, type EventRow } from "../store/aggregates.ts";
import type { Dialect } from "../store/dialect.ts";
import { joined } from "../store/identity.ts";
import type { SchemaCheck } from "../store/migrate.ts";

type Tx = NonNullable<TxOption["tx"]>;

export interface AppendOptions extends z.input<typeof appendSchema>, TxOption {
  /** What to send in the same commit. Default: nothing. */
  publish?: Publish | undefined;
}

export interface Appended {
  /** The aggregate's version now. */
  readonly version: number;
  readonly events: readonly StoredEvent[];
  /** True when all of these event ids were stored before: nothing was stored, and nothing sent. */
  readonly duplicate: boolean;
}

export interface Projected<S> {
  readonly state: S;
  /** Of the last event in it; 0: there is none. */
  readonly version: number;
}

/** Handles events of a follower. What it writes in `tx` commits with how far the follower is. */
export type FollowHandler = (
  events: readonly StoredEvent[],
  context: { readonly tx: Tx },
) => Promise<unknown> | unknown;

const PAGE = 500;
/** A follower's error is tried again after this, doubled up to the longest. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 30_000;

const aggregateIdOf = (value: unknown): string => parse(id, value, "aggregateId");

/** What happened, by aggregate and in order; stored in one commit with the messages that tell of it. */
export class EventStore {
  readonly #knex: Knex;
  readonly #schema: SchemaCheck;
  readonly #queue: MessageQueueManager;
  readonly #store: AggregateStore;

  /** @internal Use Outbox.eventStore. */
  constructor(
    knex: Knex,
    dialect: Dialect,
    schema: SchemaCheck,
    { queue, prefix }: { queue: MessageQueueManager; prefix: string },
  ) {
    this.#knex = knex;
    this.#schema = schema;
    this.#queue = queue;
    this.#store = new AggregateStore(knex, dialect, prefix);
  }

  /**
   * Stores events after those that the aggregate has, and sends what `publish` says, all in one commit. Appends to
   * one aggregate take turns; those to others do not wait.
   *
   * @throws VersionConflict with `details.currentVersion`, AlreadyExists when an event id is another event's,
   *   ValidationFailed, PayloadTooLarge (an event above 1 MB, all of them above 16 MB), and as sendMessages
   */
  async append(
    aggregateId: string,
    events: readonly NewEvent[],
    options: AppendOptions = {},
  ): Promise<Appended> {
    const { tx, publish, ...rest } = given(options);
    const aggregate = aggregateIdOf(aggregateId);
    const settings = parse(appendSchema, rest, "options");
    const rows = rowsOf(events, settings.agentId ?? null);
    const db = joined(this.#knex, tx);
    await this.#schema.ensure(tx);
    return this.#store.transaction(async (trx) => {
      const before = await this.#store.lock(trx, aggregate);
      const known = await this.#store.byId(
        trx,
        rows.map(({ event_id }) => event_id),
      );
      if (known.length > 0) return repeated(aggregate, rows, known, before.version);
      const { expectedVersion } = settings;
      const expected = expectedVersion === "none" ? 0 : expectedVersion;
      if (expected !== "any" && expected !== before.version) {
        throw conflict(aggregate, expected, before.version);
      }
      const aggregateType = before.aggregateType ?? settings.aggregateType ?? null;
      const { version } = before;
      const stored = await this.#store.insert(trx, aggregate, { version, aggregateType }, rows);
      const messages = messagesOf(publish, stored);
      if (messages.length > 0) await this.#queue.sendMessages(messages, { tx: trx as Tx });
      return { version: version + rows.length, events: stored, duplicate: false };
    }, db);
  }

  /** The aggregate's version: how many events it has. */
  async version(aggregateId: string): Promise<number> {
    const aggregate = aggregateIdOf(aggregateId);
    await this.#schema.ensure();
    return this.#store.version(aggregate);
  }

  /** Events of an aggregate in the order of their versions: one page. */
  async load(aggregateId: string, options: LoadOptions = {}): Promise<StoredEvent[]> {
    const aggregate = aggregateIdOf(aggregateId);
    const { fromVersion, limit } = parse(loadSchema, given(options), "options");
    await this.#schema.ensure();
    return this.#store.load(aggregate, fromVersion, limit);
  }

  /** All events of an aggregate from `fromVersion` (default 1) on, read in pages. */
  async *stream(
    aggregateId: string,
    { fromVersion = 1 }: { readonly fromVersion?: number } = {},
  ): AsyncGenerator<StoredEvent, void, undefined> {
    for (let from = fromVersion; ; from += PAGE) {
      const page = await this.load(aggregateId, { fromVersion: from, limit: PAGE });
      yield* page;
      if (page.length < PAGE) return;
    }
  }

  /**
   * Events of all aggregates after a position, in the order of their positions. Whoever goes on after the last one
   * that it got misses none: an event gets its position after its commit, so none ever comes to stand before one
   * that was read.
   */
  async readAll(options: ReadAllOptions = {}): Promise<StoredEvent[]> {
    const { after, limit, types } = parse(readAllSchema, given(options), "options");
    await this.#schema.ensure();
    for (;;) {
      const events = await this.#store.after(after, limit, types);
      if (events.length === limit) return events;
      // At the end of what has positions: what has been committed since gets them now.
      if (!(await this.#numbered())) return this.#store.after(after, limit, types);
    }
  }

  /** True when there is more to give positions to. */
  async #numbered(): Promise<boolean> {
    return this.#store.number();
  }

  /**
   * The state that a reducer makes of an aggregate's events. With `snapshot` it is kept from time to time, and the
   * next call reads only what came after; a snapshot of another `schemaVersion` is not used.
   *
   * @throws PayloadTooLarge when the state to keep is above 4 MB
   */
  async project<S>(
    aggregateId: string,
    reducer: (state: S, event: StoredEvent) => S,
    initial: S,
    options: ProjectOptions = {},
  ): Promise<Projected<S>> {
    const aggregate = aggregateIdOf(aggregateId);
    const { snapshot } = parse(projectSchema, given(options), "options");
    await this.#schema.ensure();
    const kept =
      snapshot && (await this.#store.snapshot(aggregate, snapshot.name, snapshot.schemaVersion));
    // A copy, so that a reducer that writes into it does not change the next call's beginning.
    let state = kept === undefined ? structuredClone(initial) : (kept.state as S);
    let version = kept?.version ?? 0;
    for await (const event of this.stream(aggregate, { fromVersion: version + 1 })) {
      state = reducer(state, event);
      version = event.version;
    }
    if (snapshot !== undefined && version - (kept?.version ?? 0) >= snapshot.every) {
      const text = jsonText({ value: state }, "state", MOST_SNAPSHOT_BYTES);
      await this.#store.saveSnapshot(aggregate, snapshot, { version, state: text });
    }
    return { state, version };
  }

  /**
   * Hands all events to a handler, in order, until the signal aborts. How far it is stands in the database under
   * `name`, and moves in the transaction that the handler gets: what it writes there happens exactly once. Any
   * number of processes may follow under one name; one of them has the turn. A handler that throws gets the same
   * events again, after a pause that grows to 30 s.
   *
   * @param onError hears of each failure
   */
  async follow(
    name: string,
    handler: FollowHandler,
    options: FollowOptions,
    onError?: (error: unknown) => void,
  ): Promise<void> {
    const follower = parse(id, name, "name");
    const { types, batch, intervalMs, signal } = parse(followSchema, given(options), "options");
    await this.#schema.ensure();
    for (let pause = FIRST_PAUSE_MS; !signal.aborted; ) {
      let handled = false;
      try {
        handled = await this.#once(follower, handler, batch, types);
        pause = handled ? FIRST_PAUSE_MS : Math.min(pause * 2, intervalMs);
      } catch (error) {
        onError?.(error);
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
      }
      if (!handled) await sleep(pause, undefined, { signal }).catch(() => undefined);
    }
  }

  async #once(
    name: string,
    handler: FollowHandler,
    batch: number,
    types: readonly string[] | undefined,
  ): Promise<boolean> {
    // Before the transaction: the positions are given in one of their own.
    while (await this.#numbered());
    return this.#store.transaction(async (trx) => {
      const after = await this.#store.cursor(trx, name);
      const events = await this.#store.after(after, batch, types, trx);
      const last = events.at(-1)?.position ?? null;
      if (last === null) return false;
      await handler(events, { tx: trx as Tx });
      await this.#store.moveCursor(trx, name, last);
      return true;
    });
  }
}

function rowsOf(events: readonly NewEvent[], agentId: string | null): EventRow[] {
  const list = parse(newEventList, events, "events");
  let bytes = 0;
  const rows = list.map(({ eventId, eventType, data, metadata, correlationId }, n) => {
    const text = jsonDocument(data, `events.${n}.data`, MOST_EVENT_BYTES);
    bytes += text.length;
    return {
      event_id: eventId ?? randomUUID(),
      event_type: eventType,
      data: text,
      metadata:
        metadata === undefined
          ? null
          : jsonDocument(metadata, `events.${n}.metadata`, MOST_EVENT_METADATA_BYTES),
      agent_id: agentId,
      correlation_id: correlationId ?? null,
    };
  });
  if (bytes > MOST_APPEND_BYTES) {
    throw new PayloadTooLarge(
      `events: ${bytes} bytes are more than the limit of ${MOST_APPEND_BYTES}`,
      { details: { bytes, maxBytes: MOST_APPEND_BYTES } },
    );
  }
  return rows;
}

/** The same events again: as they were stored. Anything in between was never one call, and is refused. */
function repeated(
  aggregateId: string,
  rows: readonly EventRow[],
  known: readonly StoredEvent[],
  version: number,
): Appended {
  const byId = new Map(known.map((event) => [event.eventId, event]));
  const events = rows.flatMap(({ event_id, event_type }) => {
    const event = byId.get(event_id);
    const same = event?.aggregateId === aggregateId && event.eventType === event_type;
    return event !== undefined && same ? event : [];
  });
  if (events.length === rows.length) return { version, events, duplicate: true };
  const [first] = known;
  throw new AlreadyExists(`there is an event "${first?.eventId}" already`, {
    details: { eventIds: known.map(({ eventId }) => eventId) },
  });
}

function conflict(aggregateId: string, expectedVersion: number, currentVersion: number) {
  return new VersionConflict(
    `"${aggregateId}" has version ${currentVersion}, not ${expectedVersion}`,
    { details: { aggregateId, expectedVersion, currentVersion } },
  );
}

function messagesOf(
  publish: Publish | undefined,
  events: readonly StoredEvent[],
): readonly MessageInput[] {
  if (publish === undefined) return [];
  const list = (said: MessageInput | readonly MessageInput[] | undefined) =>
    said === undefined ? [] : Array.isArray(said) ? said : [said as MessageInput];
  return typeof publish === "function"
    ? events.flatMap((event) => list(publish(event)))
    : list(publish);
}
