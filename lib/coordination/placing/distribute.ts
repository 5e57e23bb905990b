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

/** What decides which of several agents is the least loaded. */
export interface Rank {
  readonly agentId: string;
  readonly deprecated: boolean;
  readonly score: number;
  readonly maxConcurrentTasks: number;
  /** Slots used, with what was given out. */
  readonly used: number;
  /** When it got its last task: any growing number. */
  readonly turn: number;
}

interface Taken extends Rank {
  readonly weight: number;
  used: number;
  turn: number;
}

/** As the databases sort: deprecated ones last, then by preferences, load and turn. */
export function byLoad(a: Rank, b: Rank): number {
  return byScore(a, b) || share(a) - share(b) || byTurn(a, b);
}

const byScore = (a: Rank, b: Rank): number =>
  Number(a.deprecated) - Number(b.deprecated) || b.score - a.score;

const share = ({ used, maxConcurrentTasks }: Rank): number => used / maxConcurrentTasks;

const byTurn = (a: Rank, b: Rank): number =>
  a.turn - b.turn || (a.agentId < b.agentId ? -1 : a.agentId > b.agentId ? 1 : 0);

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
  // What is given out here comes after all that was given out before.
  let turn = seats.reduce((last, { lastAssignedAt }) => Math.max(last, lastAssignedAt), 0);
  const all = seats.map((seat): Taken => ({ ...seat, turn: seat.lastAssignedAt }));
  const hasRoom = ({ used, maxConcurrentTasks }: Rank) => used + cost <= maxConcurrentTasks;
  const order = orderOf(strategy);
  const open = all.filter(hasRoom);
  if (order !== undefined) open.sort(order);
  return loads.map(({ owner, avoid }) => {
    const at = chosen(open, owner, avoid, strategy === "weighted" ? random : undefined);
    const [best] = at < 0 ? [] : open.splice(at, 1);
    if (best === undefined) return undefined;
    best.used += cost;
    best.turn = ++turn;
    if (hasRoom(best)) open.splice(order === undefined ? at : placeOf(best, open, order), 0, best);
    return best.agentId;
  });
}

/** Undefined: they stay in the order of the look. So of one context the last agent comes first, until it is full. */
function orderOf(strategy: TaskStrategy): ((a: Rank, b: Rank) => number) | undefined {
  if (strategy === "sticky" || strategy === "weighted") return undefined;
  if (strategy === "roundRobin") return (a, b) => byScore(a, b) || byTurn(a, b);
  return byLoad;
}

/** Where the one that gets a task is; -1 for nobody. */
function chosen(
  open: readonly Taken[],
  owner: string,
  avoid: string | null,
  random: (() => number) | undefined,
): number {
  const may = ({ agentId }: Taken) => agentId !== owner;
  const should = (one: Taken) => may(one) && one.agentId !== avoid;
  if (random === undefined) {
    const first = open.findIndex(should);
    return first < 0 ? open.findIndex(may) : first;
  }
  const others = open.filter(should);
  const best = drawn(others.length > 0 ? others : open.filter(may), random);
  return best === undefined ? -1 : open.indexOf(best);
}

/** Before which of them it goes, by halves. */
function placeOf<T>(one: T, sorted: readonly T[], order: (a: T, b: T) => number): number {
  let from = 0;
  let to = sorted.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (order(sorted[middle] as T, one) < 0) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** Each by its weight times its free slots; a deprecated one only where there is no other. */
function drawn(open: readonly Taken[], random: () => number): Taken | undefined {
  const current = open.filter(({ deprecated }) => !deprecated);
  const from = current.length > 0 ? current : open;
  const parts = from.map(
    ({ weight, maxConcurrentTasks, used }) => weight * (maxConcurrentTasks - used),
  );
  let left = random() * parts.reduce((sum, part) => sum + part, 0);
  for (const [n, part] of parts.entries()) {
    left -= part;
    if (left < 0) return from[n];
  }
  return from.at(-1);
}
