import type { TaskStrategy } from "../../protocol/tasks.ts";
import type { LockedAgent } from "../../store/assignments/assignments.ts";

/** What matters of a task when it is given to one of several agents that can do it. */
export interface Load {
  /** Its supervisor, which is never given its own tasks. */
  readonly owner: string;
  /** Who failed or lost it before: only where there is nobody else. */
  readonly avoid: string | null;
}

/** An agent, the best first, and how many of the task's preferences it meets, by weight. */
export interface Seat extends LockedAgent {
  readonly score: number;
}

interface Taken {
  readonly seat: Seat;
  /** Slots used, with what was given out here. */
  used: number;
  /** When it got its last task: the place in the order of those that were asked, later those of this round. */
  turn: number;
}

/** How many tasks of a cost have room in all. */
export function roomFor(seats: readonly LockedAgent[], cost: number): number {
  return seats.reduce(
    (sum, { maxConcurrentTasks, used }) =>
      sum + Math.max(0, Math.floor((maxConcurrentTasks - used) / cost)),
    0,
  );
}

/**
 * Who gets which task: for each task, in order, its agent, or undefined where nobody has room for it. One need for
 * all of them, so any agent can do any task. The same rules as those by which one agent is looked for.
 */
export function distribute(
  loads: readonly Load[],
  seats: readonly Seat[],
  { cost, strategy }: { readonly cost: number; readonly strategy: TaskStrategy },
  random: () => number = Math.random,
): (string | undefined)[] {
  const byTurn = [...seats].sort((a, b) => a.lastAssignedAt - b.lastAssignedAt);
  const turns = new Map(byTurn.map((seat, n) => [seat, n]));
  const all = seats.map((seat): Taken => ({ seat, used: seat.used, turn: turns.get(seat) ?? 0 }));
  let turn = seats.length;
  return loads.map(({ owner, avoid }) => {
    const open = all.filter(
      ({ seat, used }) => seat.agentId !== owner && used + cost <= seat.maxConcurrentTasks,
    );
    const others = open.filter(({ seat }) => seat.agentId !== avoid);
    const best = choose(others.length > 0 ? others : open, strategy, random);
    if (best === undefined) return undefined;
    best.used += cost;
    best.turn = turn++;
    return best.seat.agentId;
  });
}

function choose(
  open: readonly Taken[],
  strategy: TaskStrategy,
  random: () => number,
): Taken | undefined {
  // They come in the order of the look: of one context the last agent first, and so until it is full.
  if (strategy === "sticky") return open[0];
  if (strategy === "weighted") return drawn(open, random);
  return open.reduce<Taken | undefined>(
    (best, one) => (best === undefined || before(one, best, strategy) ? one : best),
    undefined,
  );
}

function before(a: Taken, b: Taken, strategy: TaskStrategy): boolean {
  const order =
    Number(a.seat.deprecated) - Number(b.seat.deprecated) ||
    b.seat.score - a.seat.score ||
    (strategy === "roundRobin" ? 0 : share(a) - share(b)) ||
    a.turn - b.turn;
  return order < 0;
}

function share({ used, seat }: Taken): number {
  return used / seat.maxConcurrentTasks;
}

/** Each by its weight times its free slots; a deprecated one only where there is no other. */
function drawn(open: readonly Taken[], random: () => number): Taken | undefined {
  const current = open.filter(({ seat }) => !seat.deprecated);
  const from = current.length > 0 ? current : open;
  const parts = from.map(({ seat, used }) => seat.weight * (seat.maxConcurrentTasks - used));
  let left = random() * parts.reduce((sum, part) => sum + part, 0);
  for (const [n, part] of parts.entries()) {
    left -= part;
    if (left < 0) return from[n];
  }
  return from.at(-1);
}
