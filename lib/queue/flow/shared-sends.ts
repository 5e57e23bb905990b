import type { EncodedMessage } from "../../protocol/envelope.ts";
import { bearsNoKey, type Sent } from "../../store/sending.ts";
import { Held } from "../../store/sql.ts";
import { Together } from "../../store/together.ts";
import type { QueueCore } from "../core.ts";

/**
 * Single sends of this process that are under way at the same time. Those with dedupe keys keep to themselves: they
 * may have to wait for another sender of theirs, and are counted nowhere.
 */
export class SharedSends {
  readonly #core: QueueCore;
  readonly #plain: Together<EncodedMessage, Sent>;
  readonly #deduped: Together<EncodedMessage, Sent>;

  constructor(core: QueueCore) {
    this.#core = core;
    this.#plain = this.#group(false);
    this.#deduped = this.#group(true);
  }

  /** Undefined for a message that goes alone, because it waits for a key that somebody may hold for long. */
  send(message: EncodedMessage): Promise<Sent> | undefined {
    const { head } = message;
    if (bearsNoKey(head)) return this.#plain.add(message);
    const deduped = head.orderingKey === undefined && head.concurrencyKey === undefined;
    return deduped && this.#core.store.sendsApart ? this.#deduped.add(message) : undefined;
  }

  /** Resolves when everything that was given is stored, or has failed. */
  async idle(): Promise<void> {
    await Promise.all([this.#plain.idle(), this.#deduped.idle()]);
  }

  #group(apart: boolean): Together<EncodedMessage, Sent> {
    const core = this.#core;
    return new Together({
      run: async (messages) => core.send(await core.db(), messages, { apart }),
      weightOf: ({ contentText }) => contentText.length,
      isForOne: (error) => error instanceof Held,
    });
  }
}
