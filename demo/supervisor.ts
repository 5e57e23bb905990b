import {
  AgentRole,
  type Outbox,
  type OutboxEvent,
  type PerformanceMetrics,
  type SupervisorCoordinator,
  type Task,
} from "../lib/index.ts";
import type { HashedFile } from "./analysis/inventory.ts";
import type { Plan, PlannedTask } from "./plan.ts";
import { HEARTBEAT_MS, type TaskResult } from "./protocol.ts";

export const SUPERVISOR = "supervisor";
/** How often it looks for lost agents and places parked tasks. */
const SWEEP_MS = 50;
const ENDS = new Set(["completed", "failed", "cancelled", "rejected"]);

export interface TaskEnd {
  readonly taskId: string;
  readonly agentId: string | null;
}

/** What the founding protocol lets a supervisor tell of itself. */
export interface SupervisorSummary extends PerformanceMetrics {
  readonly agentId: string;
  /** How many tasks it gave to agents that work on their own. */
  readonly autonomousTasks: number;
  /** Whether the registry knows it as alive. */
  readonly coordinationEnabled: boolean;
}

/** The supervisor's side of the demo: it hands out the plan and waits for the end of every task. */
export class Supervision {
  readonly #outbox: Outbox;
  readonly #coordinator: SupervisorCoordinator;
  readonly #running = new AbortController();
  readonly #open = new Set<string>();
  readonly #longestMs: number;
  readonly #onEnd: (end: TaskEnd) => void;
  #allEnded: (() => void) | undefined;
  #run: Promise<void> | undefined;

  constructor(outbox: Outbox, longestMs: number, onEnd: (end: TaskEnd) => void) {
    this.#outbox = outbox;
    this.#longestMs = longestMs;
    this.#onEnd = onEnd;
    this.#coordinator = outbox.supervisor(SUPERVISOR, {
      heartbeatIntervalMs: HEARTBEAT_MS,
      sweepIntervalMs: SWEEP_MS,
    });
    outbox.observe((events) => {
      for (const event of events) this.#observe(event);
    });
  }

  /** Enters the registry and goes to work beside everything else. */
  async start(): Promise<void> {
    await this.#outbox.agents.registerAgent({
      agentId: SUPERVISOR,
      role: AgentRole.SUPERVISOR,
      capabilities: ["project_management", "coordination"],
      maxConcurrentTasks: 20,
    });
    this.#run = this.#coordinator.run({ signal: this.#running.signal });
    this.#run.catch(() => {});
  }

  /** Every task of the plan, and at last the inventory, which needs the hashes of all files. */
  async perform(plan: Plan): Promise<void> {
    for (const { taskId } of plan.tasks) this.#open.add(taskId);
    for (const task of plan.tasks) await this.#assign(task);
    await this.#untilAllEnded();
    const files = (await this.tasks()).flatMap(({ taskType, result }) =>
      taskType === "hash" ? hashesIn(result) : [],
    );
    this.#open.add("inventory");
    await this.#assign({
      taskId: "inventory",
      capability: "inventory",
      description: "find duplicates and the largest files",
      parameters: { files },
    });
    await this.#untilAllEnded();
  }

  /** All tasks as the database has them. */
  async tasks(): Promise<Task[]> {
    const all: Task[] = [];
    for (let afterSeq = 0; ; ) {
      const page = await this.#coordinator.listTasks({ afterSeq, limit: 1_000 });
      all.push(...page);
      const last = page.at(-1);
      if (last === undefined || page.length < 1_000) return all;
      afterSeq = last.seq;
    }
  }

  async summary(): Promise<SupervisorSummary> {
    const registered = await this.#outbox.agents.getAgent(SUPERVISOR);
    return {
      agentId: SUPERVISOR,
      autonomousTasks: (await this.tasks()).length,
      coordinationEnabled: registered !== null && !registered.lost,
      ...(await this.#coordinator.getPerformanceMetrics()),
    };
  }

  /** Whoever waits for tasks is refused. */
  async stop(): Promise<void> {
    this.#running.abort();
    await this.#run;
  }

  async #assign(task: Omit<PlannedTask, "parameters"> & { parameters: object }): Promise<void> {
    this.#running.signal.throwIfAborted();
    await this.#coordinator.assignTask({
      taskId: task.taskId,
      taskType: task.capability,
      description: task.description,
      parameters: { ...task.parameters },
      requiredCapabilities: [task.capability],
      // So that `--arg c code-017` finds its messages in the audit log.
      correlationId: task.taskId,
    });
  }

  #observe(event: OutboxEvent): void {
    if (event.type !== "task" || !ENDS.has(event.event)) return;
    const { taskId, agentId } = event;
    if (!this.#open.delete(taskId)) return;
    this.#onEnd({ taskId, agentId });
    if (this.#open.size === 0) this.#allEnded?.();
  }

  /** Rejects when the supervision is stopped before: nobody will end them then. */
  #untilAllEnded(): Promise<void> {
    const { signal } = this.#running;
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      if (this.#open.size === 0) return resolve();
      const settle = (error?: Error) => {
        clearTimeout(timer);
        signal.removeEventListener("abort", stopped);
        if (error === undefined) resolve();
        else reject(error);
      };
      const stopped = () => settle(signal.reason);
      const timer = setTimeout(() => {
        const some = [...this.#open].slice(0, 3).join(", ");
        const longest = `${this.#longestMs / 1_000} s`;
        settle(new Error(`${this.#open.size} tasks have not ended after ${longest}: ${some}`));
      }, this.#longestMs);
      signal.addEventListener("abort", stopped);
      this.#allEnded = () => settle();
    });
  }
}

function hashesIn(result: unknown): readonly HashedFile[] {
  const facts = result as TaskResult<"hash"> | null;
  return facts !== null && "files" in facts ? facts.files : [];
}
