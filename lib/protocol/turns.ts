/**
 * Fair turns: each context of a mailbox numbers its messages with turns, one more than its last one or than the one
 * served last, whichever is greater. The order of the turns lets every context that waits through once before any
 * comes again, and a context that was quiet cannot save up turns (start-time fair queueing).
 */

/** Turns of one priority; 2^40 messages of a context are never waiting. */
const TURNS = 2 ** 40;

export function rankOfTurn(priority: number, turn: number): number {
  return (100 - priority) * TURNS + turn;
}

export function turnOfRank(rank: number): number {
  return rank % TURNS;
}

/** The next turn of a context. */
export function nextTurn(last: number | null, served: number): number {
  return Math.max(last ?? 0, served) + 1;
}
