/**
 * The states of a task and the legal moves between them, as data: the store turns them into the WHERE of a
 * compare-and-set, so that no code path can make a move that is not in this table.
 */

export const TASK_STATES = [
  "submitted",
  "assigned",
  "working",
  "input_required",
  "auth_required",
  "completed",
  "failed",
  "canceled",
  "rejected",
] as const;

export type TaskState = (typeof TASK_STATES)[number];

/** What may become of a task that an agent has. */
const FROM_AGENT: readonly TaskState[] = [
  // Given back: its agent was lost, or failed in a way that may be tried again.
  "submitted",
  "working",
  "input_required",
  "auth_required",
  "completed",
  "failed",
  "canceled",
  "rejected",
];

const MOVES: Record<TaskState, readonly TaskState[]> = {
  submitted: ["assigned", "failed", "canceled"],
  assigned: FROM_AGENT,
  working: FROM_AGENT,
  input_required: FROM_AGENT,
  auth_required: FROM_AGENT,
  completed: [],
  failed: [],
  canceled: [],
  rejected: [],
};

/** States that nothing leaves. */
export const END_STATES = ["completed", "failed", "canceled", "rejected"] as const;
export type EndState = (typeof END_STATES)[number];

export const LIVE_STATES: readonly TaskState[] = TASK_STATES.filter(
  (state) => MOVES[state].length > 0,
);

export function isEnd(state: TaskState): state is EndState {
  return MOVES[state].length === 0;
}

export function canMove(from: TaskState, to: TaskState): boolean {
  return MOVES[from].includes(to);
}

/** The states from which a move to `to` is legal. */
export function sourcesOf(to: TaskState): readonly TaskState[] {
  return TASK_STATES.filter((from) => canMove(from, to));
}

/** How agent protocols, A2A and MCP write the same states. */
const SPELLINGS: Record<string, TaskState> = {
  success: "completed",
  succeeded: "completed",
  // Done, with something to say about it: the result tells what.
  warning: "completed",
  done: "completed",
  error: "failed",
  failure: "failed",
  pending: "submitted",
  queued: "submitted",
  in_progress: "working",
  running: "working",
  cancelled: "canceled",
};

/** The state behind a word in any of its spellings (`SUCCESS`, `TASK_STATE_COMPLETED`, `input-required`). */
export function taskStateOf(word: string): TaskState | undefined {
  const plain = word
    .trim()
    .toLowerCase()
    .replaceAll("-", "_")
    .replace(/^task_state_/, "");
  if (Object.hasOwn(SPELLINGS, plain)) return SPELLINGS[plain];
  return TASK_STATES.find((state) => state === plain);
}

/** The states of A2A as its JSON writes them. */
export type A2aTaskState = `TASK_STATE_${Uppercase<Exclude<TaskState, "assigned">>}`;

/** The statuses of tasks in MCP. */
export type McpTaskStatus = "working" | "input_required" | "completed" | "failed" | "cancelled";

/** A state in the words of A2A, which knows no difference between given to an agent and begun. */
export function toA2aState(state: TaskState): A2aTaskState {
  const known = state === "assigned" ? "working" : state;
  return `TASK_STATE_${known.toUpperCase()}` as A2aTaskState;
}

const MCP: Record<TaskState, McpTaskStatus> = {
  submitted: "working",
  assigned: "working",
  working: "working",
  input_required: "input_required",
  // MCP has no word of its own: the status message tells what is asked.
  auth_required: "input_required",
  completed: "completed",
  // For faults of the protocol; a tool that reports an error of its own is `completed` with `isError`.
  failed: "failed",
  canceled: "cancelled",
  // With a status message that says so.
  rejected: "cancelled",
};

/** A state in the words of MCP. */
export function toMcpStatus(state: TaskState): McpTaskStatus {
  return MCP[state];
}
