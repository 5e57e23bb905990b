import {
  type DeadLetterFilterInput,
  deadLetterListSchema,
  type PurgeInput,
  purgeSchema,
  type RedriveInput,
  redriveSchema,
} from "../protocol/options.ts";
import { id, parse } from "../protocol/validate.ts";
import type { QueueCore } from "./core.ts";
import { fieldsOf } from "./events.ts";
import { type DeadLetter, deadLetter } from "./stored.ts";

/** The dead letters of all mailboxes. */
export class DeadLetters {
  readonly #core: QueueCore;

  constructor(core: QueueCore) {
    this.#core = core;
  }

  /** Those that match, oldest first; `limit` 50 unless told, `afterSeq` to page on. */
  async list(
    filter: DeadLetterFilterInput & { limit?: number; afterSeq?: number } = {},
  ): Promise<DeadLetter[]> {
    const { limit, afterSeq, ...rest } = parse(deadLetterListSchema, filter, "filter");
    await this.#core.db();
    const rows = await this.#core.dead.list(rest, limit, afterSeq);
    return rows.map((row) => deadLetter(row, this.#core.store.parseJson));
  }

  /** One dead letter by its message's id, or null. */
  async get(messageId: string): Promise<DeadLetter | null> {
    const message = parse(id, messageId, "messageId");
    const [row] = await this.#core.dead.get(await this.#core.db(), message);
    return row === undefined ? null : deadLetter(row, this.#core.store.parseJson);
  }

  /**
   * Sends dead letters again, as new with all their runs before them and without an expiry. Two operators who
   * do it at once send nothing twice. Returns how many were sent, and their ids.
   */
  async redrive(filter: RedriveInput): Promise<{ redriven: number; messageIds: string[] }> {
    const { limit, toAgent, delayMs, ...rest } = parse(redriveSchema, filter, "filter");
    const db = await this.#core.db();
    const rows = await this.#core.dead.redrive(rest, { limit, toAgent, delayMs });
    const fields = rows.map((row) => ({
      ...fieldsOf(row as Parameters<typeof fieldsOf>[0]),
      ...(toAgent === undefined ? {} : { toAgent }),
    }));
    this.#core.tell(db, "replayed", fields);
    this.#core.signal(new Set(fields.map((message) => message.toAgent)));
    return { redriven: rows.length, messageIds: fields.map(({ messageId }) => messageId) };
  }

  /** Deletes dead letters for good. Returns how many. */
  async purge(filter: PurgeInput): Promise<{ purged: number }> {
    const { limit, ...rest } = parse(purgeSchema, filter, "filter");
    await this.#core.db();
    return { purged: await this.#core.dead.purge(rest, limit) };
  }
}
