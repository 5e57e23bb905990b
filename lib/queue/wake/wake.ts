/**
 * `certain`: the news is about this mailbox. Otherwise it is only that something somewhere may have changed. `more`:
 * messages come so quickly that there is no news of each one.
 */
export type Listener = (certain: boolean, more: boolean) => void;

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
      if (listeners.size === 0 && this.#listeners.get(agentId) === listeners) {
        this.#listeners.delete(agentId);
      }
    };
  }

  wake(agentIds: Iterable<string>, certain = true, more = false): void {
    for (const agentId of agentIds) {
      for (const listener of [...(this.#listeners.get(agentId) ?? [])]) listener(certain, more);
    }
  }

  /** Something may have been missed: everyone looks for themselves. */
  wakeAll(): void {
    this.wake([...this.#listeners.keys()], false);
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
