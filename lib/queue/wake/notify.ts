import { randomUUID } from "node:crypto";
import type { WakeUp } from "../../store/dialect.ts";
import type { WakeChannel } from "../../store/wake-channel.ts";
import { backOffMs, settledWithin } from "../worker/pace.ts";
import { Ear } from "./notify-ear.ts";
import { Rides } from "./rides.ts";
import { hubOf, type WakeHub } from "./wake.ts";

/** Messages that come apart are told of one by one; in this time there is one wake-up per mailbox. */
const WINDOW_MS = 5;
/** Where more come than that, one in this time is enough: whoever it wakes drains the mailbox. */
export const BUSY_WINDOW_MS = 50;
/** The most payloads of one statement. */
const MOST_AT_ONCE = 500;
/** A listener outlives its last user by this much, so that short waits do not open one connection each. */
const LINGER_MS = 10_000;

/** A lone message on its way into the database, with its wake-up or without. */
export interface Ride {
  readonly agentId: string;
  readonly since: number;
  readonly wakeUp: WakeUp | undefined;
}

/** A wake-up that was sent. */
interface Told {
  readonly at: number;
  readonly windowMs: number;
  /** What came within its window. */
  more: number;
}

/** Says in a payload that the window of the wake-up is a long one. */
const MORE = "+";

/** Tells this process's own wake-ups from those of others: its own consumers were woken directly. */
const SENDER = randomUUID().slice(0, 8);

/**
 * Carries wake-ups between processes. One per database in a process, whatever the number of queues: it sends
 * through the pool of one of them, and listens on one connection as long as anybody waits for messages.
 * Everything that fails here costs latency, never a message.
 */
export class Push {
  readonly #hub: WakeHub;
  readonly #pending = new Set<string>();
  /** Of mailboxes whose last wake-up was sent a moment ago. */
  readonly #sent = new Map<string, Told>();
  /** Of the queue that sent last. */
  #channel: WakeChannel | undefined;
  #sending: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #timerAt = 0;
  readonly #rides = new Rides();
  #failures = 0;
  #silentUntil = 0;
  /** Of the queues that wait for messages, one entry per consumer. */
  readonly #attending = new Set<{ readonly channel: WakeChannel }>();
  #ear: Ear | undefined;
  #linger: NodeJS.Timeout | undefined;

  constructor(name: string) {
    this.#hub = hubOf(name);
  }

  /** Wakes consumers of these mailboxes in other processes, soon. */
  send(agentIds: Iterable<string>, channel: WakeChannel): void {
    const now = performance.now();
    if (now < this.#silentUntil) return;
    this.#channel = channel;
    let dueAt = Number.POSITIVE_INFINITY;
    for (const agentId of agentIds) {
      this.#pending.add(agentId);
      const told = this.#sent.get(agentId);
      if (told !== undefined && now - told.at < told.windowMs) told.more += 1;
      dueAt = Math.min(dueAt, this.#dueAt(agentId));
    }
    if (dueAt <= now) void this.#flush();
    else if (Number.isFinite(dueAt)) this.#flushAt(dueAt, now);
  }

  /**
   * A message is stored now. `agentId`: it is the only one, and this its mailbox. Undefined where what becomes of it
   * need not be told to `rode`.
   */
  ride(agentId: string | undefined, channel: WakeChannel): Ride | undefined {
    const now = performance.now();
    const { alone, mayRide } = this.#rides.sending(now);
    if (!alone || agentId === undefined || channel.carried === undefined) return undefined;
    const quiet = this.#sending === undefined && this.#pending.size === 0;
    const rides =
      mayRide && quiet && now >= this.#silentUntil && this.#dueAt(agentId) <= now
        ? channel.carried(this.#payload(agentId))
        : undefined;
    return { agentId, since: now, wakeUp: rides };
  }

  /** It was stored. True where its wake-up went with it: nothing is left to be told. */
  rode({ agentId, since, wakeUp }: Ride): boolean {
    const now = performance.now();
    if (wakeUp === undefined) this.#rides.walked(now - since);
    else if (wakeUp.outcome === "refused") this.#rides.refused(now);
    if (wakeUp?.outcome !== "carried") return false;
    this.#rides.rode(now - since, now);
    this.#told(agentId, now);
    if (this.#sent.size > MOST_AT_ONCE) this.#forget(now);
    return true;
  }

  #told(agentId: string, now: number): void {
    const windowMs = this.#busy(agentId) ? BUSY_WINDOW_MS : WINDOW_MS;
    this.#sent.set(agentId, { at: now, windowMs, more: 0 });
  }

  /** Whether messages came in the window of the last wake-up: then the next window is a long one. */
  #busy(agentId: string): boolean {
    return (this.#sent.get(agentId)?.more ?? 0) > 0;
  }

  #payload(agentId: string): string {
    return `${agentId} ${SENDER}${this.#busy(agentId) ? ` ${MORE}` : ""}`;
  }

  #forget(now: number): void {
    for (const [agentId, { at }] of this.#sent) {
      if (now - at >= BUSY_WINDOW_MS) this.#sent.delete(agentId);
    }
  }

  /** Whether what other processes send is heard now: then polling need only find what was lost on the way. */
  get hears(): boolean {
    return this.#ear?.hears ?? false;
  }

  /** Listens from now on, until the returned call. */
  attend(channel: WakeChannel): () => void {
    const entry = { channel };
    this.#attending.add(entry);
    clearTimeout(this.#linger);
    this.#ear ??= new Ear(() => [...this.#attending][0]?.channel ?? channel, {
      heard: (payload) => {
        const [agentId = "", sender, more] = payload.split(" ", 3);
        if (agentId === "") this.#hub.wakeAll();
        else if (sender !== SENDER) this.#hub.wake([agentId], true, more === MORE);
      },
      missed: () => this.#hub.wakeAll(),
    });
    return () => {
      if (!this.#attending.delete(entry) || this.#attending.size > 0) return;
      this.#linger = setTimeout(() => this.#deafen(), LINGER_MS).unref();
    };
  }

  /** A queue closes: sends what is still to be sent, within a second. */
  async close(channel: WakeChannel): Promise<void> {
    if (this.#attending.size === 0) this.#deafen();
    if (this.#channel !== channel) return;
    const rest = async () => {
      await this.#sending;
      await this.#flush(true);
    };
    await settledWithin(1_000, rest());
    if (this.#channel === channel) this.#channel = undefined;
  }

  #deafen(): void {
    clearTimeout(this.#linger);
    this.#ear?.close();
    this.#ear = undefined;
  }

  /** One statement at a time; what comes meanwhile goes with the next one. */
  #flush(all = false): Promise<void> {
    this.#sending ??= this.#sendAll(all).finally(() => {
      this.#sending = undefined;
      // What came between the last look and this turn.
      if (this.#pending.size > 0 && this.#timer === undefined) void this.#flush();
    });
    return this.#sending;
  }

  async #sendAll(all: boolean): Promise<void> {
    for (;;) {
      const now = performance.now();
      const due = [...this.#pending]
        .filter((agentId) => all || this.#dueAt(agentId) <= now)
        .slice(0, MOST_AT_ONCE);
      const channel = this.#channel;
      if (channel === undefined) this.#pending.clear();
      if (due.length === 0 || channel === undefined) break;
      const payloads = due.map((agentId) => this.#payload(agentId));
      for (const agentId of due) {
        this.#pending.delete(agentId);
        this.#told(agentId, now);
      }
      try {
        await channel.send(payloads);
        this.#failures = 0;
        this.#rides.told(true);
      } catch {
        // Most likely the database is away; where NOTIFY is not to be had at all, it is tried ever more rarely.
        this.#failures++;
        this.#rides.told(false);
        this.#silentUntil =
          performance.now() + backOffMs(this.#failures) * Math.min(this.#failures, 60);
        this.#pending.clear();
      }
    }
    const now = performance.now();
    this.#forget(now);
    if (this.#pending.size === 0) return;
    this.#flushAt(Math.min(...[...this.#pending].map((agentId) => this.#dueAt(agentId))), now);
  }

  /** What is pending is sent at this time at the latest. */
  #flushAt(at: number, now: number): void {
    if (this.#timer !== undefined && this.#timerAt <= at) return;
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        void this.#flush();
      },
      Math.max(1, at - now),
    ).unref();
  }

  /** When the next wake-up of a mailbox may be sent. */
  #dueAt(agentId: string): number {
    const told = this.#sent.get(agentId);
    return told === undefined ? 0 : told.at + told.windowMs;
  }
}

const pushes = new Map<string, Push>();

/** The one of this database in this process. */
export function pushOf(database: string): Push {
  let push = pushes.get(database);
  if (push === undefined) {
    push = new Push(database);
    pushes.set(database, push);
  }
  return push;
}
