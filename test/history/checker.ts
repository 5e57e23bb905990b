import { Index } from "./index-of.ts";
import { claimRules } from "./rules-claims.ts";
import { flowRules } from "./rules-flow.ts";
import { journalRules } from "./rules-journal.ts";
import { messageRules } from "./rules-messages.ts";
import type { History, Violation } from "./types.ts";

/**
 * What a history proves to be wrong; empty when all guarantees held. It never guesses: where clients cannot know
 * (an answer was lost, a process died), whatever could have happened is allowed.
 */
export function check(history: History): Violation[] {
  const index = new Index(history);
  return [
    ...messageRules(index),
    ...claimRules(index),
    ...flowRules(index),
    ...journalRules(history),
  ];
}
