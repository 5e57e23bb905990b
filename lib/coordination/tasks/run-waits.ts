import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import {
  AgentCommunicationError,
  LeaseLost,
  MessageTimeout,
  ValidationFailed,
} from "../../errors.ts";
import type { Observers, TaskEvent, TaskEventName } from "../../protocol/events.ts";
import { given, noMore } from "../../protocol/given.ts";
import type { InputRequest } from "../../protocol/task-inputs.ts";
import type { Task } from "../../protocol/tasks.ts";
import { durationMs, jsonText, parse } from "../../protocol/validate.ts";
import type { Fence } from "../../store/task-row.ts";
import type { Coordination } from "../coordination.ts";
import type { AssignedTask } from "../options.ts";
import { derivedId, type Tx } from "../parts.ts";
import { ask } from "./questions.ts";
import type { RunClock } from "./run-clock.ts";
import type { InputQuestion, SubtaskInput } from "./run-context.ts";

/** What a run that waits needs of its run. */
export interface WaitingRun {
  readonly coordination: Coordination;
  /** Null for a task that a message brought, and no supervisor stored. */
  readonly task: Task | null;
  readonly fence: Fence | null;
  readonly signal: AbortSignal;
  readonly clock: RunClock;
  /** The transaction of the handler's that is open now. */
  tx(): Tx | undefined;
  /** Ends the run without an answer, where `park` finds that there is something to wait for. */
  park(park: (tx: Tx) => Promise<Task | undefined>): Promise<boolean>;
}

const DEFAULT_WAIT_MS = 30_000;
const SHORTEST_PAUSE_MS = 25;
const LONGEST_PAUSE_MS = 500;
const ENDS: ReadonlySet<TaskEventName> = new Set(["completed", "failed", "cancelled", "rejected"]);
const MOST_PARTS = 1_000;
const MOST_PARAMETER_BYTES = 800_000;

const waitMsOf = durationMs().default(DEFAULT_WAIT_MS);

/** Questions and parts of a task whose handler runs: what it waits for. */
export class RunWaits {
  readonly #run: WaitingRun;
  /** Questions that this run waits for. */
  #open = 0;
  /** These, and those that are being asked: who keeps its clock from going on. */
  #holds = 0;
  #asks: "input_required" | "auth_required" = "input_required";
  /** How often it made each part, for those that are told apart by nothing else. */
  readonly #made = new Map<string, number>();

  constructor(run: WaitingRun) {
    this.#run = run;
  }

  /** What the task is meanwhile, whatever else is reported. */
  get state(): "working" | "input_required" | "auth_required" {
    return this.#open === 0 ? "working" : this.#asks;
  }

  async requestInput(question: InputQuestion): Promise<unknown> {
    const { waitMs, ...request } = given(question);
    const patienceMs = parse(waitMsOf, waitMs, "input.waitMs");
    const fence = this.#stored("ask");
    const { coordination, clock } = this.#run;
    const { tasks } = coordination.parts;
    // From the commit of the question on the task has time; so its clock stands still before that.
    const leftMs = clock.hold();
    this.#holds++;
    try {
      const asked = await tasks.transaction((trx) => ask(coordination.parts, trx, fence, request));
      if (asked === undefined) throw lost(fence);
      if (asked.input.state !== "open") return answerOf(asked.input);
      this.#open++;
      this.#asks = asked.input.kind === "auth" ? "auth_required" : "input_required";
      try {
        return await this.#answer(asked.input.inputId, patienceMs);
      } finally {
        this.#open--;
        if (this.#open === 0 && !this.#run.signal.aborted) {
          // Nobody else moves it back where another question of the task is still open.
          await tasks.report(fence, "working", undefined, undefined, leftMs);
        }
      }
    } finally {
      this.#holds--;
      if (this.#holds === 0 && !this.#run.signal.aborted) clock.start(leftMs);
    }
  }

  async #answer(inputId: string, patienceMs: number): Promise<unknown> {
    const { inputs } = this.#run.coordination.parts;
    let answer: unknown;
    await this.#until(
      patienceMs,
      ({ taskId }) => taskId === this.#run.fence?.taskId,
      async () => {
        const input = await inputs.get(inputId);
        if (input?.state === "open") return false;
        answer = answerOf(input);
        return true;
      },
      () => this.#parkForInput(),
    );
    return answer;
  }

  async waitForInput(): Promise<void> {
    this.#stored("wait for answers");
    if (await this.#parkForInput()) this.#run.signal.throwIfAborted();
  }

  async #parkForInput(): Promise<boolean> {
    const { coordination, fence } = this.#run;
    const { tasks, inputs } = coordination.parts;
    return this.#run.park(async (tx) => {
      if (fence === null) return undefined;
      const task = await tasks.lock(tx, fence.taskId);
      if (!(await inputs.anyOpen(tx, fence.taskId))) return undefined;
      const state = task?.state === "auth_required" ? "auth_required" : "input_required";
      return tasks.park(tx, fence, state, 1);
    });
  }

  async subtask(input: SubtaskInput): Promise<AssignedTask> {
    const { key, ...task } = given(input);
    const fence = this.#stored("make subtasks");
    const { coordination, task: parent } = this.#run;
    const named = key ?? this.#keyOf(task);
    const hash = createHash("sha256").update(named).digest("hex").slice(0, 24);
    const submitted = await coordination.submit(
      parent?.supervisorId as string,
      {
        taskId: derivedId("", fence.taskId, `:part:${hash}`),
        contextId: parent?.contextId ?? undefined,
        correlationId: parent?.correlationId ?? undefined,
        requestedBy: parent?.requestedBy ?? undefined,
        ...task,
        parentTaskId: fence.taskId,
      },
      { tx: this.#run.tx() },
    );
    return { ...submitted.task, duplicate: submitted.duplicate };
  }

  #keyOf({ taskType, parameters }: { taskType: string; parameters?: unknown }): string {
    const text = jsonText(parameters ?? {}, "task.parameters", MOST_PARAMETER_BYTES);
    const same = JSON.stringify([taskType, text]);
    const nth = (this.#made.get(same) ?? 0) + 1;
    this.#made.set(same, nth);
    return JSON.stringify([taskType, text, nth]);
  }

  async subtasks(options: { waitMs?: number | undefined } = {}): Promise<Task[]> {
    const { waitMs, ...rest } = given(options);
    noMore(rest);
    const patienceMs = parse(waitMsOf, waitMs, "options.waitMs");
    const fence = this.#stored("wait for subtasks");
    const { tasks, family } = this.#run.coordination.parts;
    const of = [fence.taskId];
    await this.#until(
      patienceMs,
      ({ event }) => ENDS.has(event),
      async () => (await family.partsOf(of, 1, { live: true })).length === 0,
      () =>
        this.#run.park(async (tx) => {
          // Locked, so that a part that ends meanwhile is seen here, or sees the parked task.
          const live = await family.lockLive(tx, fence.taskId, MOST_PARTS);
          return live === 0 ? undefined : tasks.park(tx, fence, "submitted", live);
        }),
    );
    return family.partsOf(of, MOST_PARTS);
  }

  /** Looks until it is so; whoever has no patience any more parks the task, which aborts the signal. */
  async #until(
    patienceMs: number,
    rings: (event: TaskEvent) => boolean,
    isSo: () => Promise<boolean>,
    park: () => Promise<boolean>,
  ): Promise<void> {
    const { signal, coordination } = this.#run;
    if (this.#run.tx() !== undefined) {
      throw new ValidationFailed(
        "a run cannot wait inside its transaction: wait before context.tx",
      );
    }
    const deadline = performance.now() + patienceMs;
    const bell = new Bell(coordination.parts.observers, rings);
    try {
      for (let look = 0; ; look++) {
        signal.throwIfAborted();
        if (await isSo()) return;
        const left = deadline - performance.now();
        if (left <= 0 && (await park().catch(isNotNow))) continue;
        const pause = Math.min(SHORTEST_PAUSE_MS * 1.5 ** look, LONGEST_PAUSE_MS);
        await bell.wait(left > 0 ? Math.min(pause, left) : pause, signal);
      }
    } finally {
      bell.close();
    }
  }

  #stored(what: string): Fence {
    if (this.#run.fence !== null) return this.#run.fence;
    throw new AgentCommunicationError(
      "TASK_STATE",
      `a task that no supervisor stored cannot ${what}`,
      { recoverySuggestion: "Let a supervisor assign the task (assignTask)." },
    );
  }
}

/** A deadlock, or a database that is away: the run goes on waiting, and tries again. */
function isNotNow(error: unknown): false {
  if (error instanceof AgentCommunicationError && error.code === "SERVICE_UNAVAILABLE")
    return false;
  throw error;
}

function answerOf(input: InputRequest | undefined): unknown {
  if (input?.state === "answered") return input.answer;
  throw new MessageTimeout("nobody answered in time, or the task has ended", {
    retryable: false,
    details: { inputId: input?.inputId },
  });
}

function lost({ taskId }: Fence): LeaseLost {
  return new LeaseLost(`the task ${taskId} has ended, or another agent has it`);
}

/** Ends a pause early when this process commits something about a task. Other processes are seen by the next look. */
class Bell {
  readonly #remove: () => void;
  #ring = new AbortController();

  constructor(observers: Observers, rings: (event: TaskEvent) => boolean) {
    this.#remove = observers.add((events) => {
      if (events.some((event) => event.type === "task" && rings(event))) this.#ring.abort();
    });
  }

  async wait(ms: number, signal: AbortSignal): Promise<void> {
    // However busy this process is, it looks at most so often.
    await sleep(SHORTEST_PAUSE_MS, undefined, { signal }).catch(() => undefined);
    if (ms <= SHORTEST_PAUSE_MS) return;
    const either = AbortSignal.any([signal, this.#ring.signal]);
    await sleep(ms - SHORTEST_PAUSE_MS, undefined, { signal: either }).catch(() => undefined);
    this.#ring = new AbortController();
  }

  close(): void {
    this.#remove();
  }
}
