import { AgentCommunicationError, QueueFull } from "../../errors.ts";
import { type EncodedMessage, headsOf } from "../../protocol/envelope.ts";
import type { Flow } from "../../protocol/flow.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { Db, KeyRef, NewMessage } from "../../store/dialect.ts";
import { depthKey, FlowStore, type Member, windowKey, windowName } from "../../store/flow.ts";
import type { Placing } from "../../store/message-rows.ts";
import type { Admission, Admitted, Sent } from "../../store/sending.ts";
import { isTransaction } from "../../store/sql.ts";
import type { Brakes } from "../../store/stopped.ts";
import type { QueueCore } from "../core.ts";
import { Bell, settledWithin } from "../worker/pace.ts";

/** Longest pause between two looks for room, in milliseconds: acks of other processes ring no bell here. */
const LONGEST_LOOK_MS = 200;

/** What those listen to who wait for room in a mailbox; no agent can have such an id. */
const roomIn = (agentId: string) => `room ${agentId}`;

/** What one waits for: room in a mailbox, or in the window of a sender to it. */
const roomOf = (toAgent: string, fromAgent: string) => `${toAgent} ${fromAgent}`;

/**
 * Keeps senders from sending more than their destinations get done: windows between two agents, and mailboxes of
 * limited depth. Exact for all processes, since whoever counts holds the lock of what is counted until it commits.
 */
export class FlowControl {
  readonly #core: QueueCore;
  readonly #store: FlowStore;
  readonly #line = new Line();

  constructor(core: QueueCore) {
    this.#core = core;
    this.#store = new FlowStore(core.dialect, core.options.prefix);
  }

  /** What a send must pass; undefined where nothing is set that could refuse it. */
  async admission(
    db: Db,
    messages: readonly EncodedMessage[],
    flow: Flow,
  ): Promise<FlowAdmission | undefined> {
    const { mailboxes } = await this.#core.gates.known.all(db);
    const depths = new Map<string, number>();
    if (mailboxes.size > 0) {
      for (const agentId of headsOf(messages).flatMap(({ toAgent }) => toAgent)) {
        const maxDepth = mailboxes.get(agentId)?.maxDepth ?? null;
        if (maxDepth !== null) depths.set(agentId, maxDepth);
      }
    }
    if (flow.window === false && depths.size === 0) return undefined;
    return new FlowAdmission(this.#store, flow, depths);
  }

  /** Stores messages as soon as there is room, if that is what was chosen; never waits inside a transaction. */
  async send(
    db: Db,
    messages: readonly EncodedMessage[],
    placing: Placing | undefined,
    admission: FlowAdmission,
    brakes?: Brakes,
  ): Promise<Sent[]> {
    const attempt = () => this.#core.store.send(db, messages, { placing, admission, brakes });
    const { whenFull, waitMs } = admission.flow;
    if (whenFull !== "wait" || isTransaction(db)) return attempt();
    const deadline = performance.now() + waitMs;
    // Behind those of this process that wait for the same: who came first is first.
    const line = admission.rooms(messages).find((room) => this.#line.has(room));
    if (line !== undefined) return this.#wait(attempt, line, deadline);
    try {
      return await attempt();
    } catch (error) {
      if (!passes(error)) throw error;
      const { toAgent, fromAgent = "" } = error.details as { toAgent: string; fromAgent?: string };
      return this.#wait(attempt, roomOf(toAgent, fromAgent), deadline);
    }
  }

  async #wait(attempt: () => Promise<Sent[]>, line: string, deadline: number): Promise<Sent[]> {
    // One at a time looks for room, so that a thousand who wait cost no more than one.
    const leave = await this.#line.enter(line, deadline - performance.now());
    if (leave === undefined) return attempt();
    const bell = new Bell();
    const agentId = line.slice(0, line.indexOf(" "));
    const unsubscribe = this.#core.wakeHub.subscribe(roomIn(agentId), () => bell.ring());
    try {
      for (let pause = 5; ; pause = Math.min(pause * 2, LONGEST_LOOK_MS)) {
        if (this.#core.closed) {
          throw new AgentCommunicationError("CLOSED", "the queue was closed while a send waited");
        }
        try {
          return await attempt();
        } catch (error) {
          const left = deadline - performance.now();
          if (!passes(error) || left <= 0) throw error;
          await bell.wait(Math.min(pause * (0.5 + Math.random()), left));
        }
      }
    } finally {
      unsubscribe();
      leave();
    }
  }

  /** Messages of these mailboxes have ended: whoever waits for room there looks again. */
  ended(db: Db, messages: readonly { readonly toAgent: string }[]): void {
    if (messages.length === 0) return;
    const rooms = new Set(messages.map(({ toAgent }) => roomIn(toAgent)));
    afterCommit(db, () => this.#core.wakeHub.wake(rooms));
  }

  /** Forgets what nobody sends under any more. */
  async forget(keys: readonly KeyRef[]): Promise<void> {
    if (keys.length > 0) await this.#store.forget(this.#core.knex, keys);
  }
}

/** Whether waiting may help. */
function passes(error: unknown): error is QueueFull {
  return error instanceof QueueFull && error.retryable;
}

/** Decides which messages of one send have room, under the locks of all that they are counted in. */
export class FlowAdmission implements Admission {
  readonly flow: Flow;
  readonly #store: FlowStore;
  readonly #depths: ReadonlyMap<string, number>;

  constructor(store: FlowStore, flow: Flow, depths: ReadonlyMap<string, number>) {
    this.flow = flow;
    this.#store = store;
    this.#depths = depths;
  }

  /** What these may have to wait for. */
  rooms(messages: readonly EncodedMessage[]): string[] {
    const rooms = headsOf(messages).flatMap(({ toAgent, fromAgent }) =>
      toAgent.flatMap((agentId) => [
        ...(this.#depths.has(agentId) ? [roomOf(agentId, "")] : []),
        ...(this.flow.window === false ? [] : [roomOf(agentId, fromAgent)]),
      ]),
    );
    return [...new Set(rooms)];
  }

  keysOf({ to_agent, from_agent }: NewMessage): KeyRef[] {
    return [
      ...(this.#depths.has(to_agent) ? [depthKey(to_agent)] : []),
      ...(this.flow.window === false ? [] : [windowKey(to_agent, from_agent)]),
    ];
  }

  async admit(trx: Db, rows: readonly NewMessage[]): Promise<Admitted> {
    const spilled = new Set<NewMessage>();
    const members = await this.#throughWindows(trx, rows, spilled);
    for (const [agentId, maxDepth] of this.#depths) {
      const own = rows.filter(({ to_agent }) => to_agent === agentId);
      if (own.length > 0) await this.#intoMailbox(trx, own, maxDepth, spilled);
    }
    return {
      rows: await this.#delayed(trx, rows, spilled),
      spilled: new Set([...spilled].map(({ message_id }) => message_id)),
      stored: (stored) => this.#store.enter(stored, members),
    };
  }

  async #throughWindows(
    trx: Db,
    rows: readonly NewMessage[],
    spilled: Set<NewMessage>,
  ): Promise<Member[]> {
    const { window, whenFull } = this.flow;
    if (window === false) return [];
    const members: Member[] = [];
    for (const [name, own] of grouped(rows, windowName)) {
      const unfinished = await this.#store.unfinished(trx, name, window, own.length);
      const room = Math.max(0, window - unfinished);
      if (own.length > room && whenFull !== "spill") throw windowFull(own, window, unfinished);
      members.push(...own.slice(0, room));
      for (const row of own.slice(room)) spilled.add(row);
    }
    return members;
  }

  async #intoMailbox(
    trx: Db,
    rows: readonly NewMessage[],
    maxDepth: number,
    spilled: Set<NewMessage>,
  ): Promise<void> {
    const agentId = rows[0]?.to_agent ?? "";
    const { whenFull, spillMs } = this.flow;
    const inMs = (row: NewMessage, now: number) =>
      Math.max(availableInMs(row, now), spilled.has(row) ? spillMs : 0);
    const { now, room, later, countedAt } = await this.#store.room(
      ...[trx, agentId, maxDepth, rows.length],
    );
    // What bears an ordering key takes its place in the key at once, whenever it becomes available.
    const needing = rows.filter((row) => row.ordering_key !== null || inMs(row, now) <= 0);
    if (needing.length > room) {
      if (whenFull !== "spill") throw mailboxFull(agentId, needing.length, maxDepth, room);
      for (const row of needing.slice(room)) spilled.add(row);
    }
    const used = rows.filter(
      (row) => row.ordering_key !== null || FlowStore.isSoon(inMs(row, now)),
    ).length;
    await this.#store.noteRoom(trx, agentId, Math.max(0, later - used), countedAt);
  }

  async #delayed(
    trx: Db,
    rows: readonly NewMessage[],
    spilled: ReadonlySet<NewMessage>,
  ): Promise<readonly NewMessage[]> {
    if (spilled.size === 0) return rows;
    const now = await this.#store.now(trx);
    return rows.map((row) => {
      if (!spilled.has(row)) return row;
      const delay_ms = Math.max(availableInMs(row, now), this.flow.spillMs);
      return { ...row, delay_ms, available_at: null };
    });
  }
}

function availableInMs({ delay_ms, available_at }: NewMessage, now: number): number {
  return available_at === null ? (delay_ms ?? 0) : available_at - now;
}

function grouped<T>(items: readonly T[], nameOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const name = nameOf(item);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [item]);
    else group.push(item);
  }
  return groups;
}

/** A send that is larger than what there can ever be room for. */
const SPLIT = {
  retryable: false,
  recoverySuggestion: "Send it in smaller parts; all of one call is stored together.",
};

function windowFull(rows: readonly NewMessage[], window: number, unfinished: number): QueueFull {
  const { from_agent: fromAgent = "", to_agent: toAgent = "" } = rows[0] ?? {};
  return new QueueFull(
    `${unfinished} of at most ${window} messages from ${fromAgent} to ${toAgent} are unfinished: no room for ${rows.length}`,
    {
      details: { fromAgent, toAgent, window, unfinished },
      ...(rows.length > window ? SPLIT : {}),
    },
  );
}

function mailboxFull(toAgent: string, wanted: number, maxDepth: number, room: number): QueueFull {
  return new QueueFull(
    `mailbox ${toAgent} has room for ${room} of at most ${maxDepth} messages: not for ${wanted}`,
    { details: { toAgent, maxDepth, room }, ...(wanted > maxDepth ? SPLIT : {}) },
  );
}

/** Lets those through one after the other who wait for the same. */
class Line {
  readonly #last = new Map<string, Promise<void>>();

  has(name: string): boolean {
    return this.#last.has(name);
  }

  /** Resolves when it is one's turn, with what ends it; undefined when that is not within `ms`. */
  async enter(name: string, ms: number): Promise<(() => void) | undefined> {
    const before = this.#last.get(name);
    let leave: () => void = () => undefined;
    const own = new Promise<void>((resolve) => {
      leave = resolve;
    });
    const turn = before === undefined ? own : before.then(() => own);
    this.#last.set(name, turn);
    void turn.then(() => {
      if (this.#last.get(name) === turn) this.#last.delete(name);
    });
    if (before === undefined || (await settledWithin(ms, before))) return leave;
    leave();
    return undefined;
  }
}
