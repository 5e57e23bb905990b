import type { LockedAgent } from "../../store/assignments/assignments.ts";
import type { Candidate } from "../../store/matching/matching.ts";
import type { Parts, Tx } from "../parts.ts";
import type { Wanted } from "../submission.ts";
import { byLoad, type Rank, roomFor, type Seat } from "./distribute.ts";

/** How old what is kept may be, in ms: loads that fell since then, and agents that are new, are not seen. */
const KEPT_MS = 2_000;
/** Fewer are looked for each time: that costs little, and is exact. */
const WORTH_KEEPING = 100;
/** The most that one look brings; so many where the same was looked for a moment ago. */
const MOST = 500;
/** Lines that are known at once. */
const LINES = 200;
/** How often more agents are locked because the first were taken, busier than thought, or other ones by now. */
const ROUNDS = 4;

/** What agents are asked for. */
export interface Call {
  /** Tasks for which it is the same can be done by the same agents: see needKey. */
  readonly line: string;
  readonly wanted: Wanted;
  /** The supervisor, which is never given its own tasks. */
  readonly owner: string;
}

export interface Claim extends Call {
  /** How many tasks there are. */
  readonly count: number;
  /** The slots that agents were given in this transaction and that no table tells yet. */
  readonly taken: ReadonlyMap<string, number>;
}

/** Agents that are the transaction's until it ends. */
export interface Claimed {
  readonly seats: readonly Seat[];
  /** Whether they are as good as any for all the tasks, as far as was known. */
  readonly enough: boolean;
}

/** Shared by all lists that an agent is in. */
interface Load {
  used: number;
  turn: number;
}

class Entry implements Rank {
  readonly agentId: string;
  readonly deprecated: boolean;
  readonly score: number;
  readonly maxConcurrentTasks: number;
  readonly cardHash: string | null;
  readonly leans: boolean;
  readonly load: Load;

  constructor(candidate: Candidate, load: Load) {
    this.agentId = candidate.agentId;
    this.deprecated = candidate.deprecated;
    this.score = candidate.score;
    this.maxConcurrentTasks = candidate.maxConcurrentTasks;
    this.cardHash = candidate.cardHash;
    this.leans = candidate.leans;
    this.load = load;
  }

  get used(): number {
    return this.load.used;
  }

  get turn(): number {
    return this.load.turn;
  }
}

interface List {
  /** Sorted when they are asked for. */
  entries: Entry[];
  /** The last of a look that brought as many as it may: those that it did not bring are no better. */
  readonly last: Rank | undefined;
}

interface Line {
  readonly lookedAt: number;
  /** Whether there are so many that it is worth to keep them. */
  readonly many: boolean;
  list: List | undefined;
}

/**
 * Who can take tasks of one need, the least loaded first. Where many can, the look for them is kept for a moment, with
 * what was given out since, because it costs more the more they are. What is kept only says whom to ask: whoever is
 * given a task is locked, counted and compared with what it was when it was found; and where those turn out to be
 * busier than others of which less is known, or are too few, a new look is taken. So no agent gets more than it can
 * hold, or what it can no longer do, and one is less loaded than another only by what ended within that moment.
 */
export class Shortlists {
  readonly #parts: Parts;
  readonly #lines = new Map<string, Line>();
  readonly #loads = new Map<string, Load>();
  #since = Number.NEGATIVE_INFINITY;
  /** Above all instants: what is given out here comes after what any look tells. */
  #turn = 1e15;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Whether the order by load alone decides, which can be told without a new look. */
  static fits({ strategy }: Wanted): boolean {
    return strategy === "leastLoaded" || strategy === "auction";
  }

  /** Takes a look, brings at least `needed` agents where there are as many, and keeps it where it is worth that. */
  async look(
    trx: Tx,
    { line, wanted, owner }: Call,
    needed: number,
    taken: ReadonlyMap<string, number>,
  ): Promise<{ readonly candidates: readonly Candidate[]; readonly list: List }> {
    const now = performance.now();
    const before = this.#line(line, now);
    const again = before !== undefined && now - before.lookedAt < 2 * KEPT_MS;
    const limit = again && before.many ? MOST : Math.min(MOST, needed);
    const candidates = await this.#parts.matching.candidates(trx, wanted.needs, {
      limit,
      cost: wanted.cost,
      exclude: [owner],
    });
    const entries = candidates.map((one) => {
      const load = this.#loads.get(one.agentId) ?? { used: 0, turn: 0 };
      load.used = one.maxConcurrentTasks - one.free + (taken.get(one.agentId) ?? 0);
      load.turn = one.lastAssignedAt;
      return new Entry(one, load);
    });
    const last = candidates.length < limit ? undefined : candidates.at(-1);
    const list = { entries, last: last && rankOf(last) };
    const keep = entries.length >= WORTH_KEEPING;
    if (keep) for (const { agentId, load } of entries) this.#loads.set(agentId, load);
    const many = keep || last !== undefined;
    this.#lines.set(line, { lookedAt: now, many, list: keep ? list : undefined });
    return { candidates, list };
  }

  /** The same without a look, where there is one that is kept. Undefined where there is none: nothing is locked then. */
  async claimKept(trx: Tx, claim: Claim): Promise<Claimed | undefined> {
    const line = this.#line(claim.line, performance.now());
    if (line?.list === undefined) return undefined;
    const claimed = await this.#claim(trx, line.list, claim, true);
    if (!claimed.enough) line.list = undefined;
    return claimed;
  }

  /** Locks the best agents for so many tasks, as few as will do. Passes over those that another transaction holds. */
  async claim(trx: Tx, claim: Claim): Promise<readonly Seat[]> {
    const kept = await this.claimKept(trx, claim);
    if (kept?.enough) return kept.seats;
    // It does not see what was taken here: as many more may turn out to be full.
    const needed = claim.count + claim.taken.size;
    const { list } = await this.look(trx, claim, needed, claim.taken);
    return (await this.#claim(trx, list, claim, false)).seats;
  }

  /** Notes that an agent was given a task. */
  given(agentId: string, cost: number): void {
    const load = this.#loads.get(agentId);
    if (load === undefined) return;
    load.used += cost;
    load.turn = this.#turn++;
  }

  async #claim(
    trx: Tx,
    list: List,
    { wanted: { cost }, count, taken }: Claim,
    kept: boolean,
  ): Promise<Claimed> {
    const seats = new Map<string, Seat>();
    const asked = new Set<string>();
    const answer = (enough: boolean) => ({ seats: [...seats.values()], enough });
    for (let round = 0; round < ROUNDS; round++) {
      // Nearly sorted most of the time, which costs little.
      list.entries.sort(byLoad);
      const first = list.entries
        .filter(
          (one) =>
            one.used + cost <= one.maxConcurrentTasks &&
            (seats.has(one.agentId) || !asked.has(one.agentId)),
        )
        .slice(0, count);
      const { last } = list;
      if (kept && last && first.length < count) break;
      // Whether those that an agent depends on are there, only a look tells.
      if (kept && first.some((one) => one.leans || (last && byLoad(last, one) < 0))) break;
      const missing = new Map(
        first.filter(({ agentId }) => !seats.has(agentId)).map((one) => [one.agentId, one]),
      );
      if (missing.size === 0) {
        const all = first.length === count || (!last && roomFor(answer(true).seats, cost) >= count);
        return answer(all);
      }
      // Others who ask in the meantime ask other agents.
      const ids = [...missing.keys()];
      for (const id of ids) this.given(id, cost);
      for (const agent of await this.#parts.assignments.lockAgents(trx, ids)) {
        const entry = missing.get(agent.agentId) as Entry;
        const seat = seatOf(agent, entry, taken);
        if (seat === undefined) {
          list.entries = list.entries.filter((one) => one !== entry);
          continue;
        }
        entry.load.used = seat.used;
        entry.load.turn = seat.lastAssignedAt;
        seats.set(agent.agentId, seat);
      }
      for (const id of ids) asked.add(id);
    }
    return answer(false);
  }

  #line(key: string, now: number): Line | undefined {
    if (this.#lines.size > LINES) this.#lines.clear();
    if (now - this.#since > KEPT_MS) {
      this.#since = now;
      this.#loads.clear();
      for (const [key, line] of this.#lines) {
        if (now - line.lookedAt > 2 * KEPT_MS) this.#lines.delete(key);
        else line.list = undefined;
      }
    }
    return this.#lines.get(key);
  }
}

const rankOf = (one: Candidate): Rank => ({
  ...one,
  used: one.maxConcurrentTasks - one.free,
  turn: one.lastAssignedAt,
});

/** The agent that was found, now that it is ours; undefined when it says something else of itself by now. */
export function seatOf(
  agent: LockedAgent,
  { cardHash, score }: Pick<Candidate, "cardHash" | "score">,
  taken?: ReadonlyMap<string, number>,
): Seat | undefined {
  if (agent.cardHash !== cardHash) return undefined;
  return { ...agent, used: agent.used + (taken?.get(agent.agentId) ?? 0), score };
}
