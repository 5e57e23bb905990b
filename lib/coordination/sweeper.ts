import { TASK_FAILURES, type TaskFailure } from "../protocol/tasks.ts";
import type { TaskHistory } from "../store/task-history.ts";
import { apart, callOff, endTask, fenceOf, type Parts, type Tx, takeAway } from "./parts.ts";
import type { Placement } from "./placing/placement.ts";
import { reclaim } from "./reclaim.ts";

/** What one sweep did. */
export interface SweepReport {
  /** Agents found lost. */
  lost: number;
  /** Tasks taken from lost agents, or whose message had died. */
  takenAway: number;
  overdue: number;
  /** Parked tasks that got an agent. */
  placed: number;
}

/** Bounds of one sweep: what is left over waits for the next one. */
const AGENTS = 20;
const TASKS_OF_AGENT = 200;
const OVERDUE = 100;
const HELD_PAGE = 200;
/** Small steps, which a planner with old statistics takes along the index too. */
const PURGED = 200;
const PURGES = 5;
const PURGE_EVERY_MS = 60_000;

/**
 * Looks for what no message tells: agents that fell silent, deadlines, messages that died, parked tasks. Each
 * step is bounded, decides by compare-and-set, and may run in any number of processes at once.
 */
export class Sweeper {
  readonly #parts: Parts;
  readonly #placement: Placement;
  readonly #history: TaskHistory;
  readonly #retentionMs: number | null;
  /** Where the next look for dead messages goes on: a hint, nothing depends on it. */
  #held = { agentId: "", seq: 0 };
  #purgeAt = 0;

  constructor(
    parts: Parts,
    placement: Placement,
    history: TaskHistory,
    retentionMs: number | null,
  ) {
    this.#parts = parts;
    this.#placement = placement;
    this.#history = history;
    this.#retentionMs = retentionMs;
  }

  async sweep(): Promise<SweepReport> {
    const report: SweepReport = { lost: 0, takenAway: 0, overdue: 0, placed: 0 };
    const steps = this.#parts.sweepSteps.map((step) => () => step.sweep(this.#retentionMs));
    const own = [this.#lostAgents, this.#deadlines, this.#deadMessages];
    for (const step of steps) await apart(this.#parts, step);
    for (const step of own) await apart(this.#parts, () => step.call(this, report));
    report.placed = (await apart(this.#parts, () => this.place())) ?? 0;
    await this.#purge();
    return report;
  }

  async #lostAgents(report: SweepReport): Promise<void> {
    const { slots, tasks, observers } = this.#parts;
    for (const agentId of await slots.gone(AGENTS)) {
      const fate = await apart(this.#parts, () =>
        tasks.transaction((trx) => this.#takeAll(trx, agentId)),
      );
      if (fate === undefined) continue;
      report.takenAway += fate.taken;
      if (fate.end !== "lost") continue;
      report.lost++;
      const at = Date.now();
      observers.emit([
        { type: "agent", event: "lost", agentId, at, data: { tasks: fate.taken } },
        {
          type: "error",
          agentId,
          errorType: "agent_lost",
          errorMessage: `no heartbeat for longer than it promised; ${fate.taken} tasks taken away`,
          at,
        },
      ]);
    }
  }

  /** Undefined when it is not gone, or somebody else was faster. */
  async #takeAll(trx: Tx, agentId: string) {
    const { slots, tasks } = this.#parts;
    if (!(await slots.lockGone(trx, agentId))) return undefined;
    const error = lost(agentId);
    let taken = 0;
    const answered = new Set<string>();
    for (const task of await tasks.heldBy(agentId, TASKS_OF_AGENT, trx)) {
      const outcome = await reclaim(this.#parts, trx, task, error);
      if (outcome === "taken") taken++;
      if (outcome === "answered") answered.add(task.taskId);
    }
    // One that has more, or was given one anew meanwhile, stays unmarked, so that the next sweep goes on with it.
    const held = await tasks.heldBy(agentId, TASKS_OF_AGENT, trx);
    const rest = held.length === TASKS_OF_AGENT || held.some(({ taskId }) => !answered.has(taskId));
    return { taken, end: rest ? undefined : await slots.bury(trx, agentId) };
  }

  async #deadlines(report: SweepReport): Promise<void> {
    for (const task of await this.#parts.tasks.overdue(OVERDUE)) {
      const error = {
        code: TASK_FAILURES.DEADLINE,
        message: `the deadline of the task passed while it was ${task.state}`,
        ...(task.agentId === null ? {} : { agentId: task.agentId }),
      };
      const failed = await apart(this.#parts, () =>
        this.#parts.tasks.transaction(async (trx) => {
          const failed = await endTask(this.#parts, trx, fenceOf(task), "failed", { error });
          if (failed === undefined) return false;
          await callOff(this.#parts, trx, failed, error.message);
          return true;
        }),
      );
      if (failed) report.overdue++;
    }
  }

  /**
   * A task whose message is a dead letter, or was cancelled, would wait for an answer without end; so would one that
   * an agent had answered before it was lost, where that answer is gone. One that its agent acknowledged is left
   * alone: the agent may answer later.
   */
  async #deadMessages(report: SweepReport): Promise<void> {
    const { tasks, slots } = this.#parts;
    const page = await tasks.heldAfter(this.#held, HELD_PAGE);
    const last = page.at(-1);
    this.#held =
      last === undefined || page.length < HELD_PAGE
        ? { agentId: "", seq: 0 }
        : { agentId: last.agentId ?? "", seq: last.seq };
    const messageIds = page.flatMap(({ messageId }) => messageId ?? []);
    if (messageIds.length === 0) return;
    const buried = await tasks.buried(messageIds);
    const cancelled = await tasks.cancelled(messageIds);
    const absent = await slots.absent(page.flatMap(({ agentId }) => agentId ?? []));
    for (const task of page) {
      if (task.agentId !== null && absent.has(task.agentId)) {
        const error = lost(task.agentId);
        const outcome = await apart(this.#parts, () =>
          tasks.transaction((trx) => reclaim(this.#parts, trx, task, error)),
        );
        if (outcome === "taken") report.takenAway++;
        continue;
      }
      if (task.messageId === null) continue;
      const letter = buried.get(task.messageId);
      // One that expired did so with the task's deadline, which has a step of its own.
      if (letter === undefined ? !cancelled.has(task.messageId) : letter.reason === "expired") {
        continue;
      }
      const error = {
        code: TASK_FAILURES.UNDELIVERED,
        message:
          letter === undefined
            ? "its message was cancelled"
            : `its message is a dead letter (${letter.reason})${letter.error === "" ? "" : `: ${letter.error}`}`,
        ...(task.agentId === null ? {} : { agentId: task.agentId }),
      };
      const taken = await apart(this.#parts, () =>
        tasks.transaction((trx) => takeAway(this.#parts, trx, task, error)),
      );
      if (taken !== undefined) report.takenAway++;
    }
  }

  /** Gives parked tasks to agents, the most urgent first. Returns how many got one. */
  async place(): Promise<number> {
    return this.#placement.run();
  }

  async #purge(): Promise<void> {
    if (this.#retentionMs === null || performance.now() < this.#purgeAt) return;
    for (let step = 0; step < PURGES; step++) {
      if ((await this.#history.purge(this.#retentionMs, PURGED)) < PURGED) {
        this.#purgeAt = performance.now() + PURGE_EVERY_MS;
        return;
      }
    }
    // There may be more: the next sweep goes on.
  }
}

function lost(agentId: string): TaskFailure {
  const message = `the agent "${agentId}" stopped beating, or went away`;
  return { code: TASK_FAILURES.AGENT_LOST, message, agentId };
}
