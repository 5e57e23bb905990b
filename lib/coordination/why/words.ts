import type { TaskState } from "../../protocol/states.ts";

/** Why a task is where it is, in one word. */
export type TaskReason =
  | "ended"
  | "paused"
  /** On tasks that have to complete before. */
  | "waiting_on_dependency"
  | "waiting_on_subtasks"
  /** Somebody has to answer what its agent asked. */
  | "waiting_on_input"
  | "in_auction"
  | "no_capable_agent"
  /** Agents could, but none of them beats. */
  | "none_alive"
  /** All that could drain, are in development, or wait for agents that they depend on. */
  | "none_taking"
  | "none_free"
  /** Nobody is given its own tasks. */
  | "only_its_supervisor"
  /** There is an agent for it: a supervisor has only to look. */
  | "about_to_be_assigned"
  | "mailbox_paused"
  /** Given to an agent that has not taken its message yet. */
  | "not_claimed"
  /** Its agent has the message, and has not begun, or acknowledged it and is silent. */
  | "claimed"
  | "agent_lost"
  | "working";

/** What exactly a task waits for, and what to do about it. */
export interface TaskExplanation {
  readonly taskId: string;
  readonly state: TaskState;
  readonly reason: TaskReason;
  /** One sentence with the facts. */
  readonly explanation: string;
  /** What to do, or that nothing needs to be done. */
  readonly remedy: string;
  /** The facts for programs, by names in camelCase; what is there depends on the reason. */
  readonly details: Readonly<Record<string, unknown>>;
}

export type Answer = Omit<TaskExplanation, "taskId" | "state">;

export const iso = (at: number): string => new Date(at).toISOString();

/** "1 agent", "3 agents". */
export function count(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}
