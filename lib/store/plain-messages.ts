import type { NewMessage } from "./dialect.ts";
import { GIVEN } from "./envelope-columns.ts";

/** Fields that few messages have. */
const RARE = [
  ...["ordering_key", "concurrency_key", "cost", "delivery", "retry", "hops", "trail"],
  ...["content_encoding", "lane", "rank", "aging_ms"],
  ...["delay_ms", "available_at", "ttl_ms", "expires_at"],
] as const satisfies readonly (keyof NewMessage)[];

/** The columns of a message that says nothing but itself: most do, and a narrow insert is a third of the work. */
export const COMMON = GIVEN.filter((column) => !(RARE as readonly string[]).includes(column));

/** Whether a message has no field that few have. */
export function isPlain(message: NewMessage): boolean {
  return RARE.every((field) => message[field] === null || message[field] === undefined);
}
