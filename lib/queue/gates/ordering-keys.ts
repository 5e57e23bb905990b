import { id, parse } from "../../protocol/validate.ts";
import type { HaltedKey } from "../../store/keys.ts";
import type { QueueCore } from "../core.ts";

/** Ordering keys that stand still because their head is dead, in mailboxes set to `onDeadLetter: "halt"`. */
export class OrderingKeys {
  readonly #core: QueueCore;

  constructor(core: QueueCore) {
    this.#core = core;
  }

  /** Those of one mailbox, or of all; at most 1,000. */
  async halted(agentId?: string): Promise<HaltedKey[]> {
    const agent = agentId === undefined ? null : parse(id, agentId, "agentId");
    await this.#core.db();
    return this.#core.store.keys.halted(agent, 1_000);
  }

  /**
   * Goes on with the message after the dead one, which stays in the dead letters. To go on with the dead one itself,
   * redrive it: it comes back in its old place. False when the key was not halted.
   */
  async resume(agentId: string, orderingKey: string): Promise<boolean> {
    const agent = parse(id, agentId, "agentId");
    const key = parse(id, orderingKey, "orderingKey");
    const resumed = await this.#core.store.keys.resume(await this.#core.db(), agent, key);
    this.#core.signal(new Set([agent]));
    return resumed;
  }
}
