import { AgentCommunicationError } from "../../errors.ts";
import type { FinishedTask, Task } from "../../protocol/tasks.ts";
import { afterCommit } from "../../store/after-commit.ts";
import { DEEPEST_SUBTASK, type TaskFamily } from "../../store/task-family.ts";
import { cancelTask, type Parts, type TaskFollower, type Tx, tellTask } from "../parts.ts";

/** Subtasks that are canceled by one look. */
const BATCH = 200;

/**
 * Lets a task that was just stored be a part of another one. The parent is looked at after its part was stored, and
 * locked: whoever ends it meanwhile either sees the part, or is seen here.
 *
 * @throws AgentCommunicationError UNKNOWN_TASK, TASK_STATE when the parent has ended, TASK_TOO_DEEP
 */
export async function adopt({ tasks, family }: Parts, trx: Tx, parentTaskId: string) {
  const details = { parentTaskId };
  const parent = await tasks.lock(trx, parentTaskId);
  if (parent === undefined) {
    throw new AgentCommunicationError("UNKNOWN_TASK", `there is no task "${parentTaskId}"`, {
      details,
    });
  }
  if (parent.finishedAt !== null) {
    throw new AgentCommunicationError(
      "TASK_STATE",
      `the task "${parentTaskId}" is ${parent.state}: it gets no subtasks any more`,
      { details: { ...details, state: parent.state } },
    );
  }
  const depth = await family.depthOf(parentTaskId, DEEPEST_SUBTASK, trx);
  if (depth < DEEPEST_SUBTASK) return;
  throw new AgentCommunicationError(
    "TASK_TOO_DEEP",
    `the task "${parentTaskId}" is ${depth - 1} levels below another one already`,
    { details: { ...details, deepest: DEEPEST_SUBTASK } },
  );
}

/** What the end of a task means for those above and below it. */
export class SubtaskFollower implements TaskFollower {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async ended(trx: Tx, task: FinishedTask): Promise<void> {
    if (task.parentTaskId !== null) await this.#tellParent(trx, task.parentTaskId);
    // What a completed task left running is meant to run: it could have waited.
    if (task.state !== "completed") await this.#cancelParts(trx, task);
  }

  async #tellParent(trx: Tx, parentTaskId: string): Promise<void> {
    const parent = await this.#parts.tasks.partEnded(trx, parentTaskId);
    if (parent?.waitsFor !== 0) return;
    afterCommit(trx, this.#parts.freed);
    tellTask(this.#parts, trx, "submitted", parent, { reason: "subtasks_ended" });
  }

  async #cancelParts(trx: Tx, { taskId, state }: FinishedTask): Promise<void> {
    const reason = `its parent task "${taskId}" is ${state}`.slice(0, 1_024);
    for (;;) {
      const live = await this.#parts.family.partsOf([taskId], BATCH, { live: true, db: trx });
      for (const part of live) await cancelTask(this.#parts, trx, part.taskId, reason);
      if (live.length < BATCH) return;
    }
  }
}

/** A task with its parts, and theirs. */
export interface TaskTree {
  readonly task: Task;
  readonly subtasks: readonly TaskTree[];
  /** At the root: whether it has more parts than were looked at (1,000), or deeper ones. */
  readonly truncated: boolean;
}

const MOST_IN_TREE = 1_000;

/** All below a task, level by level. */
export async function treeOf(family: TaskFamily, root: Task): Promise<TaskTree> {
  const children = new Map<string, Task[]>();
  let level = [root.taskId];
  let left = MOST_IN_TREE;
  let truncated = false;
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > DEEPEST_SUBTASK || left === 0) {
      truncated = (await family.partsOf(level, 1)).length > 0;
      break;
    }
    const found = await family.partsOf(level, left + 1);
    const parts = found.slice(0, left);
    for (const part of parts) {
      const parent = part.parentTaskId as string;
      children.set(parent, [...(children.get(parent) ?? []), part]);
    }
    left -= parts.length;
    if (found.length > parts.length) {
      truncated = true;
      break;
    }
    level = parts.map(({ taskId }) => taskId);
  }
  const grown = (task: Task): TaskTree => ({
    task,
    subtasks: (children.get(task.taskId) ?? []).map(grown),
    truncated: task.taskId === root.taskId && truncated,
  });
  return grown(root);
}
