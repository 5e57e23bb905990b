import type { Task } from "../protocol/tasks.ts";
import { afterCommit } from "../store/after-commit.ts";
import type { FirstAssignment } from "../store/assignments/assignments.ts";
import type { Candidate } from "../store/matching/matching.ts";
import { type Parts, type Tx, tellTask } from "./parts.ts";
import { dependenciesOf, settled } from "./placing/awaited.ts";
import { failDependent } from "./placing/dependents.ts";
import { distribute } from "./placing/distribute.ts";
import { firstAgents } from "./placing/first-agents.ts";
import { assignmentId, describe, sendAssignments } from "./placing/messages.ts";
import { inDependencyOrder } from "./placing/order.ts";
import { Shortlists } from "./placing/shortlists.ts";
import type { Submission, Wanted } from "./submission.ts";
import { adopt } from "./tasks/subtasks.ts";

/** A task as assignTask found or stored it. */
export interface Submitted {
  readonly task: Task;
  /** True when the id was there before: nothing was stored, and the task is the first one. */
  readonly duplicate: boolean;
}

/** How many agents one look brings. Further ones are asked only when all these were taken meanwhile. */
const CANDIDATES = 10;

/** After this many lost races a task is parked; whoever places parked tasks gives it to an agent then. */
const MOST_RACES = 25;

interface Place {
  readonly line: string;
  readonly wanted: Wanted;
  /** The supervisor of the task, which is never given its own tasks, whatever it can do. */
  readonly owner: string;
  /** Whether the transaction is ours to start anew. */
  readonly owned: boolean;
  /** Whether to wait for an agent's row; never while the row of a task is held. */
  readonly wait: boolean;
}

export interface SubmitOptions {
  /** Stores and assigns in this transaction. */
  readonly tx?: Tx | undefined;
  /** False: an agent whose row another transaction holds is passed over. Default true. */
  readonly wait?: boolean | undefined;
}

interface Listed {
  readonly agentId?: string;
  /** Whether agents are locked. */
  readonly held: boolean;
  readonly candidates?: readonly Candidate[] | undefined;
}

/** Another supervisor took the last place of the agent that we had chosen. */
class Raced extends Error {}

/**
 * Brings new tasks and agents together. The order of locks is the same everywhere: agent, then task, then message;
 * and a transaction of our own never waits for a second agent while it holds one, so supervisors cannot deadlock,
 * however many there are. Parked tasks are Placer's.
 */
export class Assigner {
  readonly #parts: Parts;
  readonly #lists: Shortlists;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#lists = new Shortlists(parts);
  }

  /** Stores a task and gives it to the best agent, or parks it. In the caller's transaction where one is given. */
  async submit(given: Submission, { tx, wait = true }: SubmitOptions = {}): Promise<Submitted> {
    if (tx !== undefined) return this.#submit(tx, given, { owned: false, park: false, wait });
    for (let race = 0; ; race++) {
      try {
        return await this.#parts.tasks.transaction((trx) =>
          this.#submit(trx, given, { owned: true, park: race >= MOST_RACES, wait }),
        );
      } catch (error) {
        if (!(error instanceof Raced)) throw error;
      }
    }
  }

  async #submit(
    trx: Tx,
    submission: Submission,
    { owned, park, wait }: { owned: boolean; park: boolean; wait: boolean },
  ): Promise<Submitted> {
    const { row, wanted } = submission;
    const { tasks } = this.#parts;
    const before = await tasks.get(row.task_id, trx);
    if (before !== undefined) return { task: before, duplicate: true };
    const awaited = await dependenciesOf(this.#parts, trx, [submission]);
    const depends = settled(submission, awaited);
    const assignable = depends.ready && row.auction_ms === null && !park;
    const agentId = assignable
      ? await this.#reserve(trx, {
          line: row.need_key,
          wanted,
          owner: row.supervisor_id,
          owned,
          // The tasks that it depends on are locked.
          wait: wait && submission.dependsOn.length === 0,
        })
      : undefined;
    const messageId = assignmentId(row.task_id, 1);
    const first = agentId === undefined ? undefined : { agentId, messageId };
    const [stored] = await this.#store(trx, [
      { submission, depends, insert: { task: { ...row, waits_for: depends.waitsFor }, first } },
    ]);
    if (stored !== undefined) {
      if (first !== undefined) await sendAssignments(this.#parts, trx, [stored], { chain: wait });
      return { task: stored, duplicate: false };
    }
    // Another sender of the same id committed between our look and our insert, which waited for it.
    const theirs = await tasks.get(row.task_id, trx);
    if (theirs === undefined) throw new Raced();
    return { task: theirs, duplicate: true };
  }

  /**
   * Stores many tasks in one transaction, which may depend on each other, and gives them to agents, all of one need
   * at once. What finds no free agent is parked, and placed right after the commit where there is one by then.
   * Answers in the order given.
   */
  async submitAll(given: readonly Submission[], tx?: Tx): Promise<Submitted[]> {
    const list = inDependencyOrder(given);
    const run = (trx: Tx) => this.#submitAll(trx, list);
    const results = await (tx === undefined ? this.#parts.tasks.transaction(run) : run(tx));
    return given.flatMap(({ row }) => results.get(row.task_id) ?? []);
  }

  async #submitAll(trx: Tx, list: readonly Submission[]): Promise<Map<string, Submitted>> {
    const { assignments } = this.#parts;
    const ids = list.map(({ row }) => row.task_id);
    const before = new Map(
      (await assignments.some(trx, ids)).map((task) => [task.taskId, task] as const),
    );
    const fresh = list.filter(({ row }) => !before.has(row.task_id));
    const awaited = await dependenciesOf(this.#parts, trx, fresh);
    const plans = fresh.map((submission) => ({
      submission,
      depends: settled(submission, awaited),
    }));
    const open = plans.filter(
      ({ depends, submission }) => depends.ready && submission.row.auction_ms === null,
    );
    const agents = await firstAgents(
      this.#parts,
      this.#lists,
      trx,
      open.map(({ submission }) => submission),
    );
    const stored = await this.#store(
      trx,
      plans.map(({ submission, depends }) => {
        const { row } = submission;
        const agentId = agents.get(row.task_id);
        const messageId = assignmentId(row.task_id, 1);
        const first = agentId === undefined ? undefined : { agentId, messageId };
        return {
          submission,
          depends,
          insert: { task: { ...row, waits_for: depends.waitsFor }, first },
        };
      }),
    );
    const assigned = stored.filter(({ agentId }) => agentId !== null);
    await assignments.touch(trx, [...new Set(assigned.map(({ agentId }) => agentId as string))]);
    await sendAssignments(this.#parts, trx, assigned, { chain: true });
    if (open.length > agents.size) afterCommit(trx, this.#parts.freed);
    const results = new Map<string, Submitted>();
    for (const task of before.values()) results.set(task.taskId, { task, duplicate: true });
    for (const task of stored) results.set(task.taskId, { task, duplicate: false });
    const others = ids.filter((id) => !results.has(id));
    // Stored by somebody else between our look and our insert, which waited for it.
    for (const task of await assignments.some(trx, others)) {
      results.set(task.taskId, { task, duplicate: true });
    }
    return results;
  }

  /** Stores tasks, what they depend on and belong to; returns those whose id was not taken. */
  async #store(
    trx: Tx,
    plans: readonly {
      readonly submission: Submission;
      readonly depends: ReturnType<typeof settled>;
      readonly insert: FirstAssignment;
    }[],
  ): Promise<Task[]> {
    const { assignments, dependencies } = this.#parts;
    const inserted = await assignments.insert(
      trx,
      plans.map(({ insert }) => insert),
    );
    const byId = new Map(inserted.map((task) => [task.taskId, task]));
    const mine = plans.filter(({ submission }) => byId.has(submission.row.task_id));
    await dependencies.add(
      trx,
      mine.flatMap(({ submission, depends }) =>
        depends.open.map((depends_on) => ({
          task_id: submission.row.task_id,
          depends_on,
          when_failed: submission.whenFailed,
        })),
      ),
    );
    for (const task of inserted) {
      if (task.auctionEndsAt === null) continue;
      for (const call of this.#parts.auctioned) await call(trx, task);
    }
    const parents = mine.flatMap(({ submission }) => submission.row.parent_task_id ?? []);
    for (const parent of [...new Set(parents)].sort()) await adopt(this.#parts, trx, parent);
    for (const task of inserted) {
      tellTask(this.#parts, trx, "submitted", { ...task, agentId: null }, describe(task));
    }
    const failing = mine.filter(({ depends }) => depends.failed !== undefined);
    if (failing.length === 0) return inserted;
    for (const { submission, depends } of failing) {
      const task = byId.get(submission.row.task_id);
      if (task && depends.failed) await failDependent(this.#parts, trx, task, depends.failed);
    }
    // Those that depend on them have failed too.
    return assignments.some(trx, [...byId.keys()]);
  }

  /**
   * Gives a parked task to this agent, whatever it asks for otherwise: the award of an auction. Undefined when the agent has no
   * room, does not take tasks, or another transaction holds it, and when the task is no longer to be given away.
   */
  async assignTo(trx: Tx, task: Task, agentId: string): Promise<Task | undefined> {
    const { slots, assignments } = this.#parts;
    // Without waiting: the caller may hold the row of the task.
    if ((await slots.reserve(trx, agentId, task.cost, false)) !== "reserved") return undefined;
    const messageId = assignmentId(task.taskId, task.assignment + 1);
    const [assigned] = await assignments.assign(trx, [{ task, agentId, messageId }]);
    if (assigned === undefined) return undefined;
    await sendAssignments(this.#parts, trx, [assigned], { chain: false });
    return assigned;
  }

  /** An agent with a place that is ours until the transaction ends. */
  async #reserve(trx: Tx, place: Place): Promise<string | undefined> {
    const { owner, owned, wanted } = place;
    const { needs, cost, strategy, contextId } = wanted;
    const listed = await this.#listed(trx, place);
    if (listed.agentId !== undefined) return listed.agentId;
    // Never for a second agent while one is ours.
    const wait = place.wait && !listed.held;
    const passed = new Set([owner]);
    for (let look = 0; look < MOST_RACES; look++) {
      const first = look === 0 ? listed.candidates : undefined;
      const open =
        first ??
        (await this.#parts.matching.candidates(trx, needs, {
          limit: CANDIDATES,
          cost,
          // What an auction has not given away goes to the least loaded.
          strategy: strategy === "auction" ? "leastLoaded" : strategy,
          contextId,
          exclude: [...passed],
        }));
      const agentId = open[0]?.agentId;
      if (agentId === undefined) break;
      const answer = await this.#parts.slots.reserve(trx, agentId, cost, wait);
      if (answer === "reserved") return agentId;
      // Full: its row is ours now. Only a rollback gives it back, so a transaction of our own starts anew.
      if (answer === "full" && owned) throw new Raced();
      passed.add(agentId);
    }
    // Where we could not wait, somebody may have room as soon as those who hold them are done.
    if (listed.held) afterCommit(trx, this.#parts.freed);
    return undefined;
  }

  /** The same where so many can do it that the look for them is kept; else what the look brought. */
  async #listed(trx: Tx, place: Place): Promise<Listed> {
    const { wanted, owner } = place;
    if (!Shortlists.fits(wanted)) return { held: false };
    const claim = { ...place, count: 1, taken: new Map() };
    let held = false;
    let candidates: readonly Candidate[] | undefined;
    for (const look of [false, true]) {
      if (look) ({ candidates } = await this.#lists.look(trx, place, CANDIDATES, claim.taken));
      const claimed = await this.#lists.claimKept(trx, claim);
      held ||= claimed !== undefined;
      if (!claimed?.enough) continue;
      const [agentId] = distribute([{ owner, avoid: null }], claimed.seats, wanted);
      if (agentId === undefined) continue;
      await this.#parts.assignments.touch(trx, [agentId]);
      this.#lists.given(agentId, wanted.cost);
      return { agentId, held };
    }
    return { held, candidates };
  }
}
