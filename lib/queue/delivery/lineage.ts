import { AsyncLocalStorage } from "node:async_hooks";
import { ValidationFailed } from "../../errors.ts";
import type { Cause } from "../../protocol/loops.ts";
import { shown } from "../../protocol/validate.ts";
import { ClaimedMessage } from "../claimed.ts";

class Handling {
  readonly message: ClaimedMessage;
  over = false;

  constructor(message: ClaimedMessage) {
    this.message = message;
  }
}

/** One for all queues of the process: a chain goes through several databases. */
const handling = new AsyncLocalStorage<Handling>();

/**
 * Calls a handler so that what it sends, until it has ended, is caused by its message. Returns a promise only where
 * the handler does.
 */
export function causing(
  message: ClaimedMessage,
  handler: () => unknown,
): Promise<void> | undefined {
  const entry = new Handling(message);
  let result: unknown;
  try {
    result = handling.run(entry, handler);
  } catch (error) {
    entry.over = true;
    throw error;
  }
  if (typeof (result as PromiseLike<unknown> | undefined)?.then === "function") {
    return ended(entry, result as PromiseLike<unknown>);
  }
  entry.over = true;
  return undefined;
}

async function ended(entry: Handling, result: PromiseLike<unknown>): Promise<void> {
  try {
    await result;
  } finally {
    // What a handler has left running (a timer, a pool) is not its message's doing for ever.
    entry.over = true;
  }
}

/**
 * What a send is caused by: the message that the caller names, else the one whose handler is running.
 *
 * @throws ValidationFailed
 */
export function causeOf(named: unknown): Cause | undefined {
  if (named !== undefined) {
    if (named instanceof ClaimedMessage) return named;
    throw new ValidationFailed(
      `options.causedBy: expected a claimed message, as getMessages and handlers get it, got ${shown(named)}`,
    );
  }
  const entry = handling.getStore();
  return entry === undefined || entry.over ? undefined : entry.message;
}
