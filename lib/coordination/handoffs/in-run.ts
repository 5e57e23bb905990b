import { AgentCommunicationError, LeaseLost } from "../../errors.ts";
import type { GateWarning, TaskHandoffInput } from "../../protocol/handoffs.ts";
import type { Task } from "../../protocol/tasks.ts";
import type { RunLimits } from "../../store/task-moves.ts";
import type { Fence } from "../../store/task-row.ts";
import type { Coordination } from "../coordination.ts";
import type { Tx } from "../parts.ts";
import { type Gate, type GateFailure, type GatesInput, gatesOf, passGates } from "./gates.ts";
import type { HandoffHandler } from "./listen.ts";
import type { InitiatedHandoff } from "./offering.ts";

/** What a runner hands its tasks over with, and what it checks before it answers. */
export class RunHandoffs {
  readonly #coordination: Coordination;
  readonly #ownGates: readonly Gate[];
  readonly #beforeRespond: readonly Gate[];

  /** @throws ValidationFailed for what are no gates */
  constructor(coordination: Coordination, given: GatesInput | undefined) {
    const own = gatesOf(given);
    this.#coordination = coordination;
    this.#ownGates = own.beforeHandoff;
    this.#beforeRespond = [...coordination.gates.beforeRespond, ...own.beforeRespond];
  }

  /** Offers the task of a running handler, in the transaction that acknowledges its message. */
  async offer(
    tx: Tx,
    fence: Fence | null,
    agentId: string,
    handoff: TaskHandoffInput,
  ): Promise<InitiatedHandoff> {
    if (fence === null) {
      throw new AgentCommunicationError(
        "HANDOFF_NOT_OWNER",
        "a task that no supervisor stored cannot be handed over",
        { recoverySuggestion: "Let a supervisor assign the task, or send it on as a message." },
      );
    }
    const offered = await this.#coordination.handoffs.offer(
      tx,
      { ...handoff, from: agentId, taskId: fence.taskId },
      { gates: this.#ownGates, detached: true },
    );
    const { tasks } = this.#coordination.parts;
    if (offered.assignment === fence.assignment) {
      // Its run is over, and with it what limits the run: the offer has a time of its own.
      await tasks.report(fence, "working", undefined, tx, null);
      return offered;
    }
    throw new LeaseLost(`the task ${fence.taskId} was given anew: this run is over`);
  }

  /** Begins a task; the handoff that brought it is active from then on, in the same commit. */
  async begin(
    fence: Fence,
    sheet: Readonly<Record<string, unknown>> | undefined,
    limits: RunLimits,
  ): Promise<Task | undefined> {
    const { parts, handoffs } = this.#coordination;
    const { state, to_agent, handoff_id } = sheet ?? {};
    if (state !== "accepted" || to_agent !== fence.agentId) {
      return parts.tasks.begin(fence, undefined, limits);
    }
    return parts.tasks.transaction(async (trx) => {
      const task = await parts.tasks.begin(fence, trx, limits);
      if (task !== undefined) await handoffs.begun(trx, String(handoff_id));
      return task;
    });
  }

  get checksAnswers(): boolean {
    return this.#beforeRespond.length > 0;
  }

  /** @throws GateFailed */
  async passAnswer(
    tx: Tx,
    answer: { agentId: string; taskId: string; result: unknown; elapsedMs: number },
  ): Promise<GateWarning[]> {
    if (!this.checksAnswers) return [];
    const { parts, handoffs } = this.#coordination;
    const { agentId, taskId, result, elapsedMs } = answer;
    return passGates(handoffs.moving, tx, this.#beforeRespond, {
      stage: "beforeRespond",
      agentId,
      taskId,
      task: (await parts.tasks.get(taskId, tx)) ?? null,
      output: result,
      elapsedMs,
    });
  }

  /** What a runner does with offers unless told otherwise: accepts tasks that it has a handler for. */
  decider(handlers: Readonly<Record<string, unknown>>): HandoffHandler {
    return async ({ taskId, to }, { accept, reject }) => {
      if (taskId === null) {
        await reject(`the agent "${to}" takes over tasks only`);
        return;
      }
      const task = await this.#coordination.parts.tasks.get(taskId);
      // Its end takes the offer back.
      if (task === undefined) return;
      if (Object.hasOwn(handlers, task.taskType)) await accept();
      else
        await reject(`the agent "${to}" has no handler for tasks of the type "${task.taskType}"`);
    };
  }
}

/** The failed gates in the words of an error report. */
export function gateErrors(error: unknown): Record<string, unknown>[] | undefined {
  const { code, details } = error as {
    code?: unknown;
    details?: { failures?: readonly GateFailure[] };
  };
  if (code !== "GATE_FAILED") return undefined;
  return details?.failures?.map(({ gate, message, severity, remedy }) => ({
    code: gate,
    message,
    severity,
    recovery_suggestion: remedy,
  }));
}
