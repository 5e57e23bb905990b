import type { AgentCard } from "../../protocol/cards.ts";
import type { Observers } from "../../protocol/events.ts";
import type { TaskRequest } from "../../protocol/payloads.ts";
import type { Task } from "../../protocol/tasks.ts";
import type { Fence } from "../../store/task-row.ts";
import type { Coordination } from "../coordination.ts";
import type { RunHandoffs } from "../handoffs/in-run.ts";
import type { RunMode } from "../system/run-mode.ts";
import type { TimedTaskHandler } from "./run-context.ts";

/** A run as its runner steers it. */
export interface RunUnderWay {
  readonly assignment: number | undefined;
  cancel(reason: string): void;
  pause(): void;
}

/** What the runs of one agent share. */
export interface TaskRuns {
  readonly agentId: string;
  readonly mode: Pick<RunMode, "readOnly">;
  readonly coordination: Coordination;
  readonly handlers: Readonly<Record<string, TimedTaskHandler>>;
  readonly observers: Observers;
  readonly handoffs: RunHandoffs;
  readonly stacks: boolean;
  /** What the agent promises. */
  readonly sla: AgentCard["sla"];
  /** How long a run may take where nothing else says it, in milliseconds. */
  readonly runTimeoutMs: number | undefined;
  /** The runs under way, by task. */
  readonly running: Map<string, RunUnderWay>;
}

interface Begun {
  /** Null, as is the fence, for a task that a message brought, and no supervisor stored. */
  readonly task: Task | null;
  readonly fence: Fence | null;
  /** How long the run may take; null: as long as it likes. */
  readonly leftMs: number | null;
}

/** Marks a task as working. `stale`: it is someone else's by now, or has ended; it must not be run. */
export async function beginRun(
  { agentId, coordination, handoffs, sla, runTimeoutMs }: TaskRuns,
  { task_id: taskId, assignment, handoff }: TaskRequest,
  timeoutMs: number | undefined,
): Promise<Begun | "stale"> {
  const fence = { taskId, assignment, agentId };
  const limits = { agentMs: timeoutMs ?? sla?.maxMs, defaultMs: runTimeoutMs };
  const task = await handoffs.begin(fence, handoff, limits);
  if (task !== undefined) {
    const { startedAt, runDeadlineAt } = task;
    return {
      task,
      fence,
      leftMs: runDeadlineAt === null ? null : runDeadlineAt - (startedAt ?? 0),
    };
  }
  if ((await coordination.parts.tasks.get(taskId)) !== undefined) return "stale";
  // Nobody stored it: the agent's own limits are all there is.
  return { task: null, fence: null, leftMs: limits.agentMs ?? runTimeoutMs ?? null };
}
