import type { EncodedMessage, Head } from "../../protocol/envelope.ts";
import type { Sent } from "../../store/sending.ts";
import { Held } from "../../store/sql.ts";
import { Together } from "../../store/together.ts";
import type { QueueCore } from "../core.ts";

const MOST_CHARACTERS = 4_000_000;

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
    if (waitsForNothing(head)) return this.#plain.add(message);
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
      mostWeight: MOST_CHARACTERS,
      isForOne: (error) => error instanceof Held,
    });
  }
}

/** Whether messages under a head wait for no key. */
export function waitsForNothing(head: Head): boolean {
  return (
    head.orderingKey === undefined &&
    head.concurrencyKey === undefined &&
    head.dedupeKey === undefined
  );
}
