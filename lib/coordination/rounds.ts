import { setTimeout as sleep } from "node:timers/promises";
import type { AgentRegistry } from "../agent-registry.ts";
import { AgentCommunicationError, errorRecord, UnknownRecipient } from "../errors.ts";
import { AgentRole } from "../protocol/agents.ts";
import { given, noMore } from "../protocol/given.ts";
import { runIntervalMs, type SupervisorSettings } from "../protocol/tasks.ts";
import { parse } from "../protocol/validate.ts";
import type { ClaimedMessage } from "../queue/claimed.ts";
import type { Inbox } from "./inbox.ts";
import { apart, isAway, type Parts, type SweepStep } from "./parts.ts";
import type { Sweeper } from "./sweeper.ts";
import type { SystemModes } from "./system/system-modes.ts";

export interface RunOptions {
  /** Ends the run. Default: it never ends. */
  signal?: AbortSignal | undefined;
  /** The longest pause between two looks for messages, in milliseconds. Default 1,000. */
  intervalMs?: number | undefined;
}

interface Pieces {
  readonly supervisorId: string;
  readonly parts: Parts;
  readonly inbox: Inbox;
  /** What this supervisor sweeps besides what all of them do. */
  readonly own: readonly SweepStep[];
  readonly sweeper: Sweeper;
  readonly registry: AgentRegistry;
  readonly system: SystemModes;
  readonly settings: SupervisorSettings;
}

/** Messages of one claim while the supervisor runs. */
const LIMIT = 100;
/** Handling that many takes seconds at most; those of a supervisor that dies come back after this. */
const LEASE_MS = 30_000;
const LONGEST_BACKOFF_MS = 5_000;
const SHORTEST_PAUSE_MS = 10;
const LONGEST_PAUSE_MS = 500;

/** When the supervisor looks: once, while somebody waits for a task, or for as long as it runs. */
export class Rounds {
  readonly #pieces: Pieces;
  #running = 0;
  #sweepAt = 0;
  #beatAt = 0;
  /** The round that waiters share. */
  #shared: Promise<unknown> | undefined;
  #background: { stop: AbortController; ended: Promise<void> } | undefined;

  constructor(pieces: Pieces) {
    this.#pieces = pieces;
  }

  /** Handles up to `limit` messages and sweeps once. */
  async round(limit: number): Promise<number> {
    const handled = await this.#messages(limit, 0);
    await this.#sweep();
    return handled;
  }

  /** Messages, and the whole sweep where it is due; in between only what the messages may have made room for. */
  async #partRound(waitMs: number): Promise<void> {
    const handled = await this.#messages(LIMIT, waitMs);
    if (performance.now() >= this.#sweepAt) await this.#sweep();
    else if (handled > 0) await this.#pieces.sweeper.place();
  }

  async #messages(limit: number, waitMs: number): Promise<number> {
    const { parts, inbox, supervisorId } = this.#pieces;
    const messages = await parts.queue.getMessages(supervisorId, {
      limit,
      leaseMs: LEASE_MS,
      waitMs,
    });
    let handled = 0;
    for (const [n, message] of messages.entries()) {
      try {
        if (await inbox.handle(message)) handled++;
      } catch (error) {
        await this.#failed(message, error, messages.slice(n + 1));
      }
    }
    return handled;
  }

  /**
   * The message is tried again later, up to its attempts, and holds up no other. When the database is away, so are
   * the rest, and the caller is told.
   */
  async #failed(
    message: ClaimedMessage,
    error: unknown,
    rest: readonly ClaimedMessage[],
  ): Promise<void> {
    this.#tell(error, message);
    let away = error;
    // A hook's error counts as an attempt whatever it is: otherwise one message would hold up all for good.
    if (!isAway(error) || this.#pieces.inbox.isOfHook(error)) {
      try {
        await message.nack(error);
        return;
      } catch (failure) {
        if (!isAway(failure)) throw failure;
        away = failure;
      }
    }
    // Their leases would hold them for half a minute; giving them back is worth a try.
    for (const claimed of [message, ...rest]) await claimed.defer(0).catch(() => undefined);
    throw away;
  }

  async #sweep(): Promise<void> {
    const { parts, own } = this.#pieces;
    for (const step of own) await apart(parts, () => step.sweep(null));
    await this.#pieces.sweeper.sweep();
    this.#sweepAt = performance.now() + this.#pieces.settings.sweepIntervalMs;
  }

  /** A pause of somebody who waits for a task; works meanwhile, unless `run` does. */
  async pause(look: number, left: number, signal?: AbortSignal): Promise<void> {
    if (this.#running === 0) {
      this.#shared ??= this.#partRound(0).finally(() => {
        this.#shared = undefined;
      });
      await this.#shared;
    }
    const pause = Math.min(SHORTEST_PAUSE_MS * 1.5 ** look, LONGEST_PAUSE_MS);
    await sleep(Math.min(pause, left), undefined, { signal }).catch(() => undefined);
  }

  start(options: RunOptions): void {
    const { intervalMs } = checked(options);
    if (this.#background !== undefined) return;
    const stop = new AbortController();
    // It ends early only with a queue that was closed, which is an end like `stop`.
    const ended = this.#loop(intervalMs, stop.signal).catch((error) => this.#tell(error));
    this.#background = { stop, ended };
  }

  async stop(): Promise<void> {
    const background = this.#background;
    this.#background = undefined;
    background?.stop.abort();
    await background?.ended;
  }

  async run(options: RunOptions): Promise<void> {
    const { intervalMs, signal } = checked(options);
    await this.#loop(intervalMs, signal);
  }

  async #loop(intervalMs: number, signal: AbortSignal | undefined): Promise<void> {
    let failures = 0;
    this.#running++;
    try {
      while (signal?.aborted !== true) {
        try {
          await this.#beat();
          const untilSweep = Math.max(0, this.#sweepAt - performance.now());
          const wait = Math.min(untilSweep, intervalMs);
          await this.#partRound(Math.floor(wait));
          failures = 0;
        } catch (error) {
          if (error instanceof AgentCommunicationError && error.code === "CLOSED") throw error;
          this.#tell(error);
          failures++;
          const backoff = Math.min(50 * 2 ** failures, LONGEST_BACKOFF_MS);
          await sleep(backoff * (0.5 + Math.random() / 2), undefined, { signal }).catch(
            () => undefined,
          );
        }
      }
    } finally {
      this.#running--;
    }
  }

  async #beat(): Promise<void> {
    if (performance.now() < this.#beatAt) return;
    const { registry, system, supervisorId, settings } = this.#pieces;
    // It may have been away when a maintenance was announced.
    if (this.#beatAt === 0) await system.acknowledge(supervisorId);
    try {
      await registry.updateHeartbeat(supervisorId);
    } catch (error) {
      if (!(error instanceof UnknownRecipient)) throw error;
      await registry.registerAgent({
        agentId: supervisorId,
        role: AgentRole.SUPERVISOR,
        maxConcurrentTasks: 0,
        staleAfterMs: Math.max(100, Math.min(86_400_000, settings.heartbeatIntervalMs * 3)),
      });
    }
    this.#beatAt = performance.now() + settings.heartbeatIntervalMs;
  }

  #tell(error: unknown, message?: ClaimedMessage): void {
    const { parts, supervisorId } = this.#pieces;
    if (!parts.observers.active) return;
    const record = errorRecord(error);
    parts.observers.emit([
      {
        type: "error",
        agentId: supervisorId,
        errorType: record.code,
        errorMessage: record.message,
        at: Date.now(),
        messageId: message?.messageId,
        taskId: message?.taskId ?? undefined,
      },
    ]);
  }
}

function checked(options: RunOptions): { intervalMs: number; signal: AbortSignal | undefined } {
  const { signal, intervalMs, ...rest } = given(options);
  noMore(rest);
  return { signal, intervalMs: parse(runIntervalMs, intervalMs, "options.intervalMs") };
}
