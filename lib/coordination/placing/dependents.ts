import { type FinishedTask, TASK_FAILURES, type Task } from "../../protocol/tasks.ts";
import { afterCommit } from "../../store/after-commit.ts";
import {
  endTask,
  fenceOf,
  type Parts,
  type SweepStep,
  type TaskFollower,
  type Tx,
} from "../parts.ts";

/** Tasks that one transaction ends, or lets go on, because another one ended; more follow in further ones. */
const STEP = 200;
/** Dependencies that one sweep looks at. */
const PAGE = 500;

/** What became of an awaited task. */
type Outcome = Pick<FinishedTask, "taskId" | "state"> | { taskId: string; state: undefined };

/**
 * Lets tasks go on when those that they wait for have completed, and fails them when they have not: in the
 * transaction that ends the awaited one, up to a bound. What is beyond it follows at once in transactions of its own;
 * and what a crash leaves in between, a sweep finds.
 */
export class Dependents implements TaskFollower, SweepStep {
  readonly #parts: Parts;
  readonly #tell: (error: unknown) => void;
  /** How many tasks each transaction has settled. */
  readonly #settled = new WeakMap<Tx, number>();
  readonly #running = new Set<Promise<void>>();
  /** Where the next look for what was left over goes on: a hint. */
  #from = "";

  constructor(parts: Parts, tell: (error: unknown) => void) {
    this.#parts = parts;
    this.#tell = tell;
  }

  async ended(trx: Tx, task: FinishedTask): Promise<void> {
    await this.#settle(trx, task);
  }

  async #settle(trx: Tx, awaited: Outcome): Promise<void> {
    const room = STEP - (this.#settled.get(trx) ?? 0);
    const { dependencies } = this.#parts;
    const waiting = room <= 0 ? [] : await dependencies.settle(trx, awaited.taskId, room);
    if (room <= 0 || waiting.length === room) this.#goOn(trx, awaited);
    if (waiting.length === 0) return;
    this.#settled.set(trx, STEP - room + waiting.length);
    const completed = awaited.state === "completed";
    const lives = waiting.filter(({ whenFailed }) => completed || whenFailed === "run");
    const ids = lives.map(({ taskId }) => taskId);
    if ((await dependencies.countDown(trx, ids)) > 0) afterCommit(trx, this.#parts.freed);
    if (lives.length === waiting.length) return;
    const failing = waiting.filter((one) => !lives.includes(one)).map(({ taskId }) => taskId);
    const tasks = await this.#parts.assignments.some(trx, failing);
    for (const task of tasks.sort((a, b) => (a.taskId < b.taskId ? -1 : 1))) {
      await failDependent(this.#parts, trx, task, awaited);
    }
  }

  /** The rest, once this much is committed. */
  #goOn(trx: Tx, awaited: Outcome): void {
    afterCommit(trx, () => {
      const running = this.#parts.tasks
        .transaction((next) => this.#settle(next, awaited))
        .catch((error: unknown) => this.#tell(error))
        .finally(() => this.#running.delete(running));
      this.#running.add(running);
    });
  }

  async sweep(): Promise<void> {
    const { dependencies, assignments, tasks } = this.#parts;
    const { next, unsettled, idle } = await dependencies.strays(this.#from, PAGE);
    this.#from = next;
    await dependencies.forget(idle);
    if (unsettled.length === 0) return;
    const known = new Map((await assignments.some(undefined, unsettled)).map(idAndTask));
    for (const taskId of unsettled) {
      // One that was forgotten had ended long before.
      const awaited = (known.get(taskId) ?? { taskId, state: undefined }) as Outcome;
      await tasks.transaction((trx) => this.#settle(trx, awaited));
    }
  }

  /** Returns when nothing runs in the background any more. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }
}

const idAndTask = (task: Task): [string, Task] => [task.taskId, task];

/** Ends a task because one that it waits for did not complete. */
export async function failDependent(
  parts: Parts,
  trx: Tx,
  task: Task,
  awaited: { readonly taskId: string; readonly state: string | undefined },
): Promise<Task | undefined> {
  const what = awaited.state === undefined ? "is no longer known" : `is ${awaited.state}`;
  return endTask(parts, trx, fenceOf(task), "failed", {
    error: {
      code: TASK_FAILURES.DEPENDENCY,
      message: `the task "${awaited.taskId}", which it depends on, ${what}`,
    },
  });
}
