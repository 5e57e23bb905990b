/**
 * Fair turns: each context of a mailbox numbers its messages of one priority with turns, one more than its last one
 * and none before the one that is being served. The order of the turns lets every context that waits through once
 * before any comes again, and a context that was quiet cannot save up turns (start-time fair queueing).
 */

/** Turns of one priority; 2^40 messages of a context are never waiting. */
const TURNS = 2 ** 40;

export function rankOfTurn(priority: number, turn: number): number {
  return (100 - priority) * TURNS + turn;
}

export function turnOfRank(rank: number): number {
  return rank % TURNS;
}

/** The ranks of a priority: from the first, to before the second. */
export function bandOf(priority: number): [number, number] {
  return [(100 - priority) * TURNS, (101 - priority) * TURNS];
}

/** The next turn of a context: after its last one, and after the turn before the one that is being served. */
export function nextTurn(last: number | null, base: number): number {
  return Math.max(last ?? 0, base) + 1;
}
