import type { Parts, Tx } from "../parts.ts";
import type { Submission } from "../submission.ts";
import { distribute, type Seat } from "./distribute.ts";
import { type Claim, Shortlists, seatOf } from "./shortlists.ts";

/** How many agents one need locks at most. */
const AGENTS = 500;

/**
 * Agents for new tasks, by the task's id: for each need one look, where none is kept, one lock of as many agents as
 * there are tasks, one count. It waits for no agent, and passes over those that another transaction holds. The agents
 * are the transaction's from then on, so what one need takes, the next one sees.
 */
export async function firstAgents(
  parts: Parts,
  lists: Shortlists,
  trx: Tx,
  list: readonly Submission[],
): Promise<Map<string, string>> {
  const chosen = new Map<string, string>();
  const taken = new Map<string, number>();
  for (const group of groups(list)) {
    const [{ wanted, row }] = group as [Submission];
    const owner = row.supervisor_id;
    const claim = { line: row.need_key, wanted, owner, count: group.length, taken };
    const seats = Shortlists.fits(wanted)
      ? await lists.claim(trx, claim)
      : await looked(parts, trx, claim);
    const loads = group.map(() => ({ owner, avoid: null }));
    for (const [n, agentId] of distribute(loads, seats, wanted).entries()) {
      const task = group[n];
      if (agentId === undefined || task === undefined) continue;
      chosen.set(task.row.task_id, agentId);
      taken.set(agentId, (taken.get(agentId) ?? 0) + wanted.cost);
      lists.given(agentId, wanted.cost);
    }
  }
  return chosen;
}

/** Of what is not ordered by load alone all are locked that may be chosen. */
async function looked(
  { matching, assignments }: Parts,
  trx: Tx,
  { wanted, owner, count, taken }: Claim,
): Promise<Seat[]> {
  const { needs, cost, strategy, contextId } = wanted;
  const candidates = await matching.candidates(trx, needs, {
    // The look does not see what was taken here: as many more may turn out to be full.
    limit: Math.min(AGENTS, count + taken.size),
    cost,
    strategy: strategy === "auction" ? "leastLoaded" : strategy,
    contextId,
    exclude: [owner],
  });
  const found = new Map(candidates.map((one) => [one.agentId, one]));
  const locked = await assignments.lockAgents(trx, [...found.keys()]);
  return locked.flatMap((agent) => {
    const candidate = found.get(agent.agentId);
    return (candidate && seatOf(agent, candidate, taken)) ?? [];
  });
}

/** Tasks of one need each; the needs by their most urgent task, and so the tasks of each. */
function groups(list: readonly Submission[]): Submission[][] {
  const byNeed = new Map<string, Submission[]>();
  for (const one of [...list].sort(byUrgency)) {
    const group = byNeed.get(one.row.need_key);
    if (group === undefined) byNeed.set(one.row.need_key, [one]);
    else group.push(one);
  }
  return [...byNeed.values()];
}

function byUrgency({ row: a }: Submission, { row: b }: Submission): number {
  const never = Number.MAX_SAFE_INTEGER;
  return b.priority - a.priority || (a.deadline_ms ?? never) - (b.deadline_ms ?? never);
}
