import { randomBytes } from "node:crypto";
import { AgentCommunicationError, AlreadyExists } from "../errors.ts";
import { taskRequest } from "../protocol/payloads.ts";
import { TASK_FAILURES, type Task } from "../protocol/tasks.ts";
import { derivedId, endTask, fenceOf, type Parts, type Tx, tellTask } from "./parts.ts";
import { type Submission, type Wanted, wantedOf } from "./submission.ts";

/** A task as assignTask found or stored it. */
export interface Submitted {
  readonly task: Task;
  /** True when the id was there before: nothing was stored, and the task is the first one. */
  readonly duplicate: boolean;
}

/** How many agents one look brings. Further ones are asked only when all these were taken meanwhile. */
const CANDIDATES = 10;

/** After this many lost races a task is parked; the next sweep gives it to whoever is free then. */
const MOST_RACES = 25;

interface Place extends Wanted {
  /** The supervisor of the task, which is never given its own tasks, whatever it can do. */
  readonly owner: string;
  /** Who failed or lost it before: asked last. */
  readonly avoid: string | null;
  /** Whether the transaction is ours to start anew. */
  readonly owned: boolean;
  /** Whether to wait for an agent's row; never while the row of a task is held. */
  readonly wait: boolean;
}

export interface SubmitOptions {
  /** Stores and assigns in this transaction. */
  readonly tx?: Tx | undefined;
  /** False: an agent whose row another transaction holds is passed over. Default true. */
  readonly wait?: boolean | undefined;
}

/** Another supervisor took the last place of the agent that we had chosen. */
class Raced extends Error {}

/** Somebody else assigned the task that we were about to assign. */
class Taken extends Error {}

/**
 * Brings tasks and agents together. The order of locks is the same everywhere: agent, then task, then message;
 * and a transaction of our own never waits for a second agent while it holds one, so supervisors cannot
 * deadlock, however many there are.
 */
export class Assigner {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Stores a task and gives it to the best agent, or parks it. In the caller's transaction where one is given. */
  async submit(given: Submission, { tx, wait = true }: SubmitOptions = {}): Promise<Submitted> {
    if (tx !== undefined) return this.#submit(tx, given, { owned: false, park: false, wait });
    for (let race = 0; ; race++) {
      try {
        return await this.#parts.tasks.transaction((trx) =>
          this.#submit(trx, given, { owned: true, park: race >= MOST_RACES, wait }),
        );
      } catch (error) {
        if (!(error instanceof Raced)) throw error;
      }
    }
  }

  async #submit(
    trx: Tx,
    { row: task, wanted }: Submission,
    { owned, park, wait }: { owned: boolean; park: boolean; wait: boolean },
  ): Promise<Submitted> {
    const { tasks } = this.#parts;
    const before = await tasks.get(task.task_id, trx);
    if (before !== undefined) return { task: before, duplicate: true };
    const agentId = park
      ? undefined
      : await this.#reserve(trx, {
          ...wanted,
          owner: task.supervisor_id,
          avoid: null,
          owned,
          wait,
        });
    const messageId = assignmentId(task.task_id, 1);
    const first = agentId === undefined ? undefined : { agentId, messageId };
    const stored = await tasks.insert(trx, task, first);
    if (stored === undefined) {
      // Another sender of the same id committed between our look and our insert, which waited for it.
      const theirs = await tasks.get(task.task_id, trx);
      if (theirs === undefined) throw new Raced();
      return { task: theirs, duplicate: true };
    }
    tellTask(this.#parts, trx, "submitted", { ...stored, agentId: null }, describe(stored));
    if (first !== undefined) {
      await this.#send(trx, stored);
      tellTask(this.#parts, trx, "assigned", stored, describe(stored));
    }
    return { task: stored, duplicate: false };
  }

  /**
   * Gives a parked task to an agent. `nobody`: no agent can take a task with these requirements now. `settled`:
   * it needs no agent from us any more.
   */
  async place(parked: Task): Promise<"assigned" | "nobody" | "settled"> {
    // A look without a transaction first: most often there is nobody, and SQLite has one write lock for all.
    if ((await this.#find(undefined, wantedOf(parked), [], 1)).length === 0) return "nobody";
    for (let race = 0; race < MOST_RACES; race++) {
      try {
        return await this.#parts.tasks.transaction((trx) => this.#place(trx, parked));
      } catch (error) {
        if (error instanceof Raced) continue;
        if (error instanceof Taken) return "settled";
        if (!unsendable(error)) throw error;
        await this.#fail(parked, error);
        return "settled";
      }
    }
    return "nobody";
  }

  async #place(trx: Tx, parked: Task): Promise<"assigned" | "nobody"> {
    const agentId = await this.#reserve(trx, {
      ...wantedOf(parked),
      owner: parked.supervisorId,
      avoid: parked.previousAgentId,
      owned: true,
      wait: true,
    });
    if (agentId === undefined) return "nobody";
    const messageId = assignmentId(parked.taskId, parked.assignment + 1);
    const task = await this.#parts.tasks.assign(trx, parked, agentId, messageId);
    if (task === undefined) throw new Taken();
    await this.#send(trx, task);
    const event = task.assignment === 1 ? "assigned" : "reassigned";
    tellTask(this.#parts, trx, event, task, {
      ...describe(task),
      ...(task.previousAgentId === null ? {} : { previous_agent: task.previousAgentId }),
    });
    return "assigned";
  }

  /** An agent with a place that is ours until the transaction ends. */
  async #reserve(trx: Tx, place: Place): Promise<string | undefined> {
    const { owner, avoid, owned, wait, cost } = place;
    const passed = new Set([owner]);
    for (let look = 0; look < MOST_RACES; look++) {
      const open = await this.#find(trx, place, [...passed], CANDIDATES);
      const agentId = open.find((candidate) => candidate !== avoid) ?? open[0];
      if (agentId === undefined) return undefined;
      const answer = await this.#parts.slots.reserve(trx, agentId, cost, wait);
      if (answer === "reserved") return agentId;
      // Full: its row is ours now. Only a rollback gives it back, so a transaction of our own starts anew.
      if (answer === "full" && owned) throw new Raced();
      passed.add(agentId);
    }
    return undefined;
  }

  async #find(
    db: Tx | undefined,
    { needs, cost, strategy, contextId }: Wanted,
    exclude: readonly string[],
    limit: number,
  ): Promise<string[]> {
    // What an auction has not given away goes to the least loaded.
    const by = strategy === "auction" ? "leastLoaded" : strategy;
    const options = { limit, cost, strategy: by, contextId, exclude };
    const found = await this.#parts.matching.candidates(db, needs, options);
    return found.map(({ agentId }) => agentId);
  }

  async #send(trx: Tx, task: Task): Promise<void> {
    const sent = await this.#parts.queue.sendMessage(
      taskRequest(
        {
          // Whoever places it: the answer goes to the supervisor that was given the task.
          fromAgent: task.supervisorId,
          toAgent: task.agentId as string,
          messageId: task.messageId as string,
          priority: task.priority,
          correlationId: task.correlationId ?? undefined,
          contextId: task.contextId ?? undefined,
          expiresAt: task.deadlineAt ?? undefined,
        },
        {
          task_id: task.taskId,
          task_type: task.taskType,
          description: task.description,
          parameters: task.parameters,
          required_capabilities: [...task.requiredCapabilities],
          assignment: task.assignment,
          deadline: task.deadlineAt === null ? undefined : new Date(task.deadlineAt).toISOString(),
          progress: task.progress ?? undefined,
        },
      ),
      { tx: trx },
    );
    // Rolls the assignment back: without a message the agent would never hear of it.
    if (sent.duplicate) {
      throw new AlreadyExists(`a message with the id "${task.messageId}" was sent before`);
    }
  }

  async #fail(parked: Task, cause: Error): Promise<void> {
    const error = { code: TASK_FAILURES.UNSENDABLE, message: cause.message };
    await this.#parts.tasks.transaction(async (trx) => {
      await endTask(this.#parts, trx, fenceOf(parked), "failed", { error });
    });
  }
}

/** Random, because a task's id may be used again when the task was purged, and its messages are still known. */
function assignmentId(taskId: string, assignment: number): string {
  return derivedId("", taskId, `:${assignment}:${randomBytes(8).toString("hex")}`);
}

function describe(task: Task): Record<string, unknown> {
  return { task_type: task.taskType, required_capabilities: task.requiredCapabilities };
}

/** Trying again would fail again: the message itself cannot be sent. */
function unsendable(error: unknown): error is AgentCommunicationError {
  return (
    error instanceof AgentCommunicationError &&
    (error.code === "PAYLOAD_TOO_LARGE" || error.code === "VALIDATION_FAILED")
  );
}
