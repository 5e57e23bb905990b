import { AgentCommunicationError, errorRecord } from "../../errors.ts";
import type { FinishedTask } from "../../protocol/tasks.ts";
import { isOver } from "../../protocol/workflow-states.ts";
import { cancelTask, type SweepStep, type TaskFollower, type Tx } from "../parts.ts";
import { type Engine, Move, TASK_PREFIX } from "./move.ts";

/** Bounds of one sweep: what is left over waits for the next one. */
const DUE = 50;
const LOOSE_PAGE = 200;
const STOPPED = 50;
const PURGED = 20;
const PURGE_EVERY_MS = 60_000;
/** When a workflow is looked at again that could not be moved. */
const AGAIN_MS = 5_000;
/** How many commits one call makes of a workflow that has more to begin than one of them does. */
const MOST_TICKS = 25;

/** When the task of a step ends, its workflow goes on in the same commit. */
export class WorkflowFollower implements TaskFollower {
  readonly #engine: Engine;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  async ended(trx: Tx, task: FinishedTask): Promise<void> {
    if (!task.taskId.startsWith(TASK_PREFIX)) return;
    const workflowId = await this.#engine.store.workflowOf(trx, task.taskId);
    if (workflowId === undefined) return;
    const move = await Move.of(this.#engine, trx, workflowId);
    move?.book.taskEnded(task);
    await move?.finish();
  }
}

/** Moves a workflow on as far as it goes without anything else happening. */
export async function tick(engine: Engine, workflowId: string): Promise<void> {
  for (let n = 0; n < MOST_TICKS; n++) {
    const stopping = await engine.store.transaction(async (trx) => {
      const move = await Move.of(engine, trx, workflowId);
      if (move === undefined) return undefined;
      await move.finish();
      const { steps, workflow, now } = move.book;
      const more = workflow.dueAt !== null && workflow.dueAt <= now;
      return more ? steps.filter(({ state }) => state === "stopping") : undefined;
    });
    if (stopping === undefined) return;
    // A task is held before its workflow, so each ends in a transaction of its own.
    for (const { taskId } of stopping.slice(0, STOPPED)) {
      if (taskId !== null) await stop(engine, taskId);
    }
  }
}

async function stop(engine: Engine, taskId: string): Promise<void> {
  const { parts, store } = engine;
  const reason = "its workflow goes no further";
  const canceled = await store.transaction((trx) => cancelTask(parts, trx, taskId, reason));
  if (canceled === undefined) await recover(engine, taskId);
}

/** Tells a workflow of the end of a task that it has not heard of: written by somebody who knows no workflows. */
async function recover(engine: Engine, taskId: string): Promise<void> {
  const { parts, store } = engine;
  await store.transaction(async (trx) => {
    const workflowId = await store.workflowOf(trx, taskId);
    if (workflowId === undefined) return;
    const task = await parts.tasks.get(taskId, trx);
    if (task !== undefined && task.finishedAt === null) return;
    const move = await Move.of(engine, trx, workflowId);
    if (task === undefined) move?.book.taskMissing(taskId);
    else move?.book.taskEnded(task as FinishedTask);
    await move?.finish();
  });
}

/** What no end of a task tells: delays and deadlines that passed, tasks to be canceled, and old workflows. */
export class WorkflowSweep implements SweepStep {
  readonly #engine: Engine;
  /** Where the next look for lost ends goes on: a hint, nothing depends on it. */
  #loose = "";
  #purgeAt = 0;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  async sweep(retentionMs: number | null): Promise<void> {
    const { store } = this.#engine;
    for (const workflowId of await store.due(DUE)) await this.#tick(workflowId);
    const { last, loose } = await store.loose(this.#loose, LOOSE_PAGE);
    this.#loose = last ?? "";
    for (const taskId of loose) await recover(this.#engine, taskId);
    await this.#purge(retentionMs);
  }

  /** One that cannot be moved must not hold up the others. */
  async #tick(workflowId: string): Promise<void> {
    try {
      await tick(this.#engine, workflowId);
    } catch (error) {
      if (error instanceof AgentCommunicationError && error.retryable) throw error;
      const { code, message } = errorRecord(error);
      this.#engine.parts.observers.emit([
        {
          type: "error",
          agentId: "workflows",
          errorType: code,
          errorMessage: message,
          at: Date.now(),
          data: { workflow_id: workflowId },
        },
      ]);
      await this.#engine.store.postpone(workflowId, AGAIN_MS);
    }
  }

  async #purge(retentionMs: number | null): Promise<void> {
    if (retentionMs === null || performance.now() < this.#purgeAt) return;
    const { store, signals } = this.#engine;
    const outlived = await store.outlived(retentionMs, PURGED);
    for (const workflowId of outlived) {
      await store.transaction(async (trx) => {
        const workflow = await store.lock(trx, workflowId);
        // Somebody may have let it go on meanwhile.
        if (workflow === undefined || !isOver(workflow.state)) return;
        await signals.forget(trx, workflowId);
        await store.remove(trx, workflow);
      });
    }
    if (outlived.length < PURGED) this.#purgeAt = performance.now() + PURGE_EVERY_MS;
  }
}
