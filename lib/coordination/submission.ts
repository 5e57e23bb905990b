import { createHash, randomBytes } from "node:crypto";
import { ValidationFailed } from "../errors.ts";
import { auctionSchema } from "../protocol/auctions.ts";
import { type Needs, needsOf, requirementText } from "../protocol/capabilities.ts";
import {
  MOST_PARAMETER_BYTES,
  type Task,
  type TaskInput,
  type TaskStrategy,
  taskSchema,
} from "../protocol/tasks.ts";
import { DEFAULT_PRIORITY } from "../protocol/types.ts";
import { jsonDocument, parse } from "../protocol/validate.ts";
import type { NewTask } from "../store/task-row.ts";

/** What decides who can take a task. Tasks for which it is the same wait in one line. */
export interface Wanted {
  readonly needs: Needs;
  readonly cost: number;
  readonly strategy: TaskStrategy;
  readonly contextId: string | null;
}

/** A new task, checked, as it is stored, and what it asks of its agent. */
export interface Submission {
  readonly row: NewTask;
  readonly wanted: Wanted;
  /** The tasks that must have ended before. */
  readonly dependsOn: readonly string[];
  readonly whenFailed: "fail" | "run";
}

/** @throws ValidationFailed, PayloadTooLarge */
export function submission(supervisorId: string, task: TaskInput, what = "task"): Submission {
  const checked = parse(taskSchema, task, what);
  if (checked.taskId !== undefined && checked.dependsOn.includes(checked.taskId)) {
    throw new ValidationFailed(`${what}.dependsOn: "${checked.taskId}" depends on itself`);
  }
  const parameters = jsonDocument(checked.parameters, `${what}.parameters`, MOST_PARAMETER_BYTES);
  const wanted: Wanted = {
    needs: { required: checked.requiredCapabilities, preferred: checked.preferredCapabilities },
    cost: checked.cost,
    strategy: checked.strategy ?? "leastLoaded",
    contextId: checked.contextId ?? null,
  };
  if (checked.auction !== undefined && wanted.strategy !== "auction") {
    throw new ValidationFailed(`${what}.auction: only with strategy "auction"`);
  }
  const auction =
    wanted.strategy === "auction" ? (checked.auction ?? parse(auctionSchema, {}, what)) : null;
  const { required, preferred } = wanted.needs;
  return {
    row: {
      task_id: checked.taskId ?? `task_${randomBytes(16).toString("hex")}`,
      task_type: checked.taskType,
      description: checked.description,
      parameters,
      required_capabilities: JSON.stringify(required.map(requirementText)),
      preferred_capabilities: preferred.length === 0 ? null : JSON.stringify(preferred),
      need_key: needKey(supervisorId, wanted),
      priority: checked.priority ?? DEFAULT_PRIORITY,
      supervisor_id: supervisorId,
      max_assignments: checked.maxAssignments,
      context_id: wanted.contextId,
      correlation_id: checked.correlationId ?? null,
      deadline_ms: checked.deadlineMs ?? null,
      cost: wanted.cost,
      strategy: checked.strategy ?? null,
      parent_task_id: checked.parentTaskId ?? null,
      requested_by: checked.requestedBy ?? null,
      waits_for: 0,
      run_timeout_ms: checked.runTimeoutMs ?? null,
      operation: checked.operation ?? null,
      auction: auction === null ? null : JSON.stringify(auction),
      auction_ms: auction?.timeLimitMs ?? null,
    },
    wanted,
    dependsOn: checked.dependsOn,
    whenFailed: checked.whenDependencyFails,
  };
}

/** The same for a task that is stored. */
export function wantedOf(task: Task): Wanted {
  return {
    needs: needsOf({ required: task.requiredCapabilities, preferred: task.preferredCapabilities }),
    cost: task.cost,
    strategy: task.strategy,
    contextId: task.contextId,
  };
}

/** The line in which a parked task waits. */
export const lineOf = (task: Task): string => needKey(task.supervisorId, wantedOf(task));

/**
 * One value per line of parked tasks: who can take the first of a line can take all of it. The supervisor is part of
 * it, because nobody is given its own tasks.
 */
function needKey(supervisorId: string, { needs, cost, strategy, contextId }: Wanted): string {
  const context = strategy === "sticky" ? contextId : null;
  const said = JSON.stringify([supervisorId, needs, cost, strategy, context]);
  return createHash("sha256").update(said).digest("hex");
}
