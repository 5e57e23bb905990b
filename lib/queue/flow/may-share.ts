import type { EncodedMessage } from "../../protocol/envelope.ts";

/**
 * Whether a message may share a statement with others: it waits for no key that somebody may hold for long, and
 * is counted nowhere.
 */
export function mayShare({ head }: EncodedMessage): boolean {
  return (
    head.orderingKey === undefined &&
    head.concurrencyKey === undefined &&
    head.dedupeKey === undefined
  );
}
