import { TASK_FAILURES, type Task } from "../../protocol/tasks.ts";
import { apart, fenceOf, type Parts, recall, type SweepStep } from "../parts.ts";
import { reclaim, reclaimPaused } from "../reclaim.ts";

/** Bounds of one sweep: what is left over waits for the next one. */
const OVERRUN = 100;
const PAGE = 200;
/** So long an agent that was told of a pause may take to stop; then the task is parked without its word. */
const PAUSE_GRACE_MS = 30_000;

/** Takes tasks from runs that go on for too long, that do not heed a pause, or that never said a word. */
export class RunSweep implements SweepStep {
  readonly #parts: Parts;
  readonly #unansweredMs: number | null;
  #after = { agentId: "", seq: 0 };

  /** @param unansweredMs after how long a task is taken from an agent that acknowledged it in silence; null: never */
  constructor(parts: Parts, unansweredMs: number | null) {
    this.#parts = parts;
    this.#unansweredMs = unansweredMs;
  }

  async sweep(): Promise<void> {
    const { tasks } = this.#parts;
    for (const task of await tasks.overrun(OVERRUN)) {
      const message = "its run took longer than it may";
      await this.#takeAway(task, TASK_FAILURES.TIMEOUT, message);
    }
    const page = await tasks.heldAfter(this.#after, PAGE);
    const last = page.at(-1);
    this.#after =
      last === undefined || page.length < PAGE
        ? { agentId: "", seq: 0 }
        : { agentId: last.agentId ?? "", seq: last.seq };
    await this.#paused(page.filter(({ pausedAt }) => pausedAt !== null));
    // Whoever began, or reported anything, is at work.
    await this.#unanswered(page.filter(({ state }) => state === "assigned"));
  }

  async #paused(page: readonly Task[]): Promise<void> {
    if (page.length === 0) return;
    const { tasks } = this.#parts;
    const now = await tasks.clock();
    for (const task of page) {
      if ((task.pausedAt ?? now) > now - PAUSE_GRACE_MS) continue;
      await apart(this.#parts, () =>
        tasks.transaction((trx) => reclaimPaused(this.#parts, trx, task)),
      );
    }
  }

  async #unanswered(page: readonly Task[]): Promise<void> {
    if (this.#unansweredMs === null) return;
    const ids = page.flatMap(({ messageId }) => messageId ?? []);
    if (ids.length === 0) return;
    const silent = await this.#parts.tasks.acknowledged(ids, this.#unansweredMs);
    for (const task of page) {
      if (task.messageId === null || !silent.has(task.messageId)) continue;
      const message = `the agent "${task.agentId}" acknowledged it, and was not heard of it since`;
      await this.#takeAway(task, TASK_FAILURES.UNANSWERED, message);
    }
  }

  async #takeAway(task: Task, code: string, message: string): Promise<void> {
    const error = { code, message, ...(task.agentId === null ? {} : { agentId: task.agentId }) };
    await apart(this.#parts, () =>
      this.#parts.tasks.transaction(async (trx) => {
        const outcome = await reclaim(this.#parts, trx, task, error);
        if (outcome === "taken") await recall(this.#parts, trx, task, message);
        // Its run is over, and with it what limits it.
        if (outcome === "answered") {
          await this.#parts.tasks.report(fenceOf(task), "working", undefined, trx, null);
        }
      }),
    );
  }
}
