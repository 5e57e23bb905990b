import { describe, expect, it } from "vitest";
import {
  canMove,
  END_STATES,
  isEnd,
  LIVE_STATES,
  sourcesOf,
  TASK_STATES,
  taskStateOf,
} from "../../lib/protocol/states.ts";

describe("task states", () => {
  it("are left only where a move says so, and never after the end", () => {
    expect([...LIVE_STATES, ...END_STATES].sort()).toEqual([...TASK_STATES].sort());
    for (const end of END_STATES) {
      expect(isEnd(end)).toBe(true);
      for (const to of TASK_STATES) expect(canMove(end, to)).toBe(false);
      expect(LIVE_STATES.some((from) => canMove(from, end))).toBe(true);
    }
    // Only through an agent: a parked task cannot be worked on, completed or rejected.
    expect(TASK_STATES.filter((to) => canMove("submitted", to))).toEqual([
      "assigned",
      "failed",
      "canceled",
    ]);
    expect(sourcesOf("assigned")).toEqual(["submitted"]);
    expect(sourcesOf("completed")).toEqual([
      "assigned",
      "working",
      "input_required",
      "auth_required",
    ]);
  });

  it("are all reached from the first one", () => {
    const reached = new Set<string>(["submitted"]);
    for (let size = 0; size !== reached.size; ) {
      size = reached.size;
      for (const from of TASK_STATES.filter((state) => reached.has(state))) {
        for (const to of TASK_STATES) if (canMove(from, to)) reached.add(to);
      }
    }
    expect([...reached].sort()).toEqual([...TASK_STATES].sort());
  });

  it("are read in every founding spelling", () => {
    const spellings: Record<string, string> = {
      SUCCESS: "completed",
      success: "completed",
      warning: "completed",
      error: "failed",
      PENDING: "submitted",
      IN_PROGRESS: "working",
      COMPLETED: "completed",
      cancelled: "canceled",
      CANCELED: "canceled",
      "input-required": "input_required",
      TASK_STATE_AUTH_REQUIRED: "auth_required",
      " working ": "working",
    };
    for (const [word, state] of Object.entries(spellings)) expect(taskStateOf(word)).toBe(state);
    for (const word of ["", "sideways", "constructor", "__proto__"]) {
      expect(taskStateOf(word)).toBeUndefined();
    }
  });
});
