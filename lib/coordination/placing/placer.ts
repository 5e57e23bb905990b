import { AgentCommunicationError } from "../../errors.ts";
import { TASK_FAILURES, type Task } from "../../protocol/tasks.ts";
import type { Candidate } from "../../store/matching/matching.ts";
import { endTask, fenceOf, type Parts, type Tx } from "../parts.ts";
import { type Wanted, wantedOf } from "../submission.ts";
import { distribute, roomFor, type Seat } from "./distribute.ts";
import { assignmentId, sendAssignments, unsendable } from "./messages.ts";
import { seatOf } from "./shortlists.ts";

/** How many tasks of one need are placed in one transaction, and how many agents it locks at most. */
const BATCH = 500;

/** After this many lost races the rest waits for the next look. */
const MOST_RACES = 5;

/** The first task of a line that competes for the same agents: no batch goes beyond it. */
export interface Limit {
  readonly priority: number;
  /** Null: no deadline. */
  readonly deadlineAt: number | null;
}

/** What placing tasks of one need came to. */
export interface Placed {
  readonly placed: number;
  /** False: no agent can take a task of this need now, or none is left. */
  readonly more: boolean;
}

/** The highest priority first, then the nearest deadline. */
export function byUrgency(a: Limit, b: Limit): number {
  return (
    b.priority - a.priority ||
    (a.deadlineAt ?? Number.MAX_SAFE_INTEGER) - (b.deadlineAt ?? Number.MAX_SAFE_INTEGER)
  );
}

/** Everybody who could take the tasks has less room than a look without locks had shown. */
class Raced extends Error {}

/**
 * Gives parked tasks of one need to agents, many in one transaction: it locks the agents, counts what they have,
 * locks as many of the tasks as have room, decides who gets which, and writes all assignments and messages with one
 * statement each. What another transaction holds, agents or tasks, is passed over; so it never waits while it holds
 * anything, and any number of supervisors share the work.
 */
export class Placer {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Places tasks of the need of `head`, up to the first that is less urgent than `limit`. */
  async place(
    needKey: string,
    head: Task,
    limit: Limit | undefined,
    tell: (error: unknown) => void,
  ): Promise<Placed> {
    const wanted = wantedOf(head);
    const excluded = new Set([head.supervisorId]);
    let most = BATCH;
    for (let race = 0; race < MOST_RACES; ) {
      // A look without a transaction first: most often there is nobody, and SQLite has one write lock for all.
      const candidates = await this.#candidates(wanted, excluded, most);
      if (candidates.length === 0) return { placed: 0, more: false };
      let tried: readonly Task[] = [];
      try {
        return await this.#parts.tasks.transaction(async (trx) => {
          const batch = await this.#batch(trx, { needKey, wanted, candidates, limit, most });
          tried = batch.tasks;
          await sendAssignments(this.#parts, trx, batch.tasks, { chain: false });
          return { placed: batch.tasks.length, more: batch.more };
        });
      } catch (error) {
        if (error instanceof Raced) {
          race++;
          continue;
        }
        const [only, ...others] = tried;
        if (!(error instanceof AgentCommunicationError) || error.retryable || only === undefined) {
          throw error;
        }
        // One of them cannot be sent: which one shows when they go one by one.
        if (others.length > 0) most = 1;
        else if (unsendable(error)) {
          await this.#fail(only, error);
          return { placed: 0, more: true };
        } else {
          // Its mailbox takes nothing now; others may.
          tell(error);
          excluded.add(only.agentId as string);
        }
      }
    }
    return { placed: 0, more: false };
  }

  async #candidates(
    { needs, cost, strategy, contextId }: Wanted,
    excluded: ReadonlySet<string>,
    limit: number,
  ): Promise<Candidate[]> {
    return this.#parts.matching.candidates(undefined, needs, {
      limit,
      cost,
      // What an auction has not given away goes to the least loaded.
      strategy: strategy === "auction" ? "leastLoaded" : strategy,
      contextId,
      exclude: [...excluded],
    });
  }

  async #batch(
    trx: Tx,
    {
      needKey,
      wanted,
      candidates,
      limit,
      most,
    }: {
      needKey: string;
      wanted: Wanted;
      candidates: readonly Candidate[];
      limit: Limit | undefined;
      most: number;
    },
  ): Promise<{ tasks: Task[]; more: boolean }> {
    const { assignments } = this.#parts;
    const seats = await this.seats(trx, candidates, wanted.cost);
    const room = roomFor(seats, wanted.cost);
    if (room === 0) throw new Raced();
    const count = Math.min(most, room);
    const locked = await assignments.lockParked(trx, needKey, count);
    const due = limit === undefined ? locked : locked.filter((one) => byUrgency(one, limit) <= 0);
    const agents = distribute(
      due.map((task) => ({ owner: task.supervisorId, avoid: task.previousAgentId })),
      seats,
      wanted,
    );
    const tasks = await assignments.assign(
      trx,
      due.flatMap((task, n) => {
        const agentId = agents[n];
        if (agentId === undefined) return [];
        const messageId = assignmentId(task.taskId, task.assignment + 1);
        return [{ task, agentId, messageId }];
      }),
    );
    await assignments.touch(trx, [...new Set(tasks.map(({ agentId }) => agentId as string))]);
    return { tasks, more: locked.length === count && tasks.length > 0 };
  }

  /**
   * The candidates that are ours until the transaction ends. Where somebody else holds all of them it waits for the
   * best one, while it holds nothing; a heartbeat is over in a moment.
   */
  async seats(
    trx: Tx,
    candidates: readonly Candidate[],
    cost: number,
    wait = true,
  ): Promise<Seat[]> {
    const { assignments, slots } = this.#parts;
    const found = new Map(candidates.map((one) => [one.agentId, one]));
    const ids = [...found.keys()];
    let locked = await assignments.lockAgents(trx, ids);
    const [best] = ids;
    if (locked.length === 0 && wait && best !== undefined) {
      if ((await slots.reserve(trx, best, cost)) !== "reserved") throw new Raced();
      locked = await assignments.lockAgents(trx, [best]);
    }
    return locked.flatMap((agent) => {
      const candidate = found.get(agent.agentId);
      return (candidate && seatOf(agent, candidate)) ?? [];
    });
  }

  async #fail(task: Task, cause: Error): Promise<void> {
    const error = { code: TASK_FAILURES.UNSENDABLE, message: cause.message };
    // As it was before the assignment that was rolled back.
    const fence = { ...fenceOf(task), agentId: null, assignment: task.assignment - 1 };
    await this.#parts.tasks.transaction(async (trx) => {
      await endTask(this.#parts, trx, fence, "failed", { error });
    });
  }
}
