/**
 * The states of a workflow and the legal moves between them, as data: the store turns them into the WHERE of each
 * move, so that no code path can make one that is not in this table.
 */
export const WORKFLOW_STATES = [
  "running",
  "paused",
  "compensating",
  "completed",
  "completed_with_warnings",
  "failed",
  "compensated",
  "canceled",
  "compensation_failed",
] as const;
export type WorkflowState = (typeof WORKFLOW_STATES)[number];

const MOVES: Record<WorkflowState, readonly WorkflowState[]> = {
  running: [
    "paused",
    "compensating",
    "completed",
    "completed_with_warnings",
    "failed",
    "canceled",
    "compensated",
  ],
  paused: ["running", "compensating"],
  compensating: ["paused", "compensated", "compensation_failed"],
  completed: [],
  completed_with_warnings: [],
  // Tried again, or undone after all.
  failed: ["running", "compensating"],
  compensated: [],
  canceled: [],
  compensation_failed: ["compensating"],
};

/** Whether it stands still until somebody acts, or for good. */
export function isOver(state: WorkflowState): boolean {
  return state !== "running" && state !== "paused" && state !== "compensating";
}

/** The states from which a move to `to` is legal. */
export function workflowSourcesOf(to: WorkflowState): readonly WorkflowState[] {
  return WORKFLOW_STATES.filter((from) => MOVES[from].includes(to));
}
