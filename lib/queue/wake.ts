import { setTimeout as sleep } from "node:timers/promises";

type Listener = (agentId: string) => void;

/**
 * Tells sleeping consumers of this process that a mailbox got something. Only an accelerator: a consumer that
 * hears nothing finds its messages by polling.
 */
export class WakeHub {
  readonly #listeners = new Map<string, Set<Listener>>();

  subscribe(agentId: string, listener: Listener): () => void {
    let listeners = this.#listeners.get(agentId);
    if (listeners === undefined) {
      listeners = new Set();
      this.#listeners.set(agentId, listeners);
    }
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#listeners.delete(agentId);
    };
  }

  wake(agentIds: Iterable<string>): void {
    for (const agentId of agentIds) {
      for (const listener of [...(this.#listeners.get(agentId) ?? [])]) listener(agentId);
    }
  }

  /** Resolves at a wake-up of the mailbox, after `ms`, or when the signal aborts; whichever is first. */
  async wait(agentId: string, ms: number, signal?: AbortSignal): Promise<void> {
    const stop = new AbortController();
    const unsubscribe = this.subscribe(agentId, () => stop.abort());
    try {
      const any = signal === undefined ? stop.signal : AbortSignal.any([stop.signal, signal]);
      await sleep(ms, undefined, { signal: any });
    } catch {
      // Woken or aborted: the caller looks for itself.
    } finally {
      unsubscribe();
    }
  }
}

const hubs = new Map<string, WakeHub>();

/** One hub per database in a process, so that two openings of one database wake each other. */
export function hubOf(database: string): WakeHub {
  let hub = hubs.get(database);
  if (hub === undefined) {
    hub = new WakeHub();
    hubs.set(database, hub);
  }
  return hub;
}
