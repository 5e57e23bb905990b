import { randomBytes } from "node:crypto";
import { AgentCommunicationError, UnknownRecipient } from "../../errors.ts";
import { requirementText } from "../../protocol/capabilities.ts";
import { type Handoff, type HandoffDraft, sheetTexts } from "../../protocol/handoffs.ts";
import { isEnd } from "../../protocol/states.ts";
import type { Task } from "../../protocol/tasks.ts";
import { DEFAULT_PRIORITY } from "../../protocol/types.ts";
import type { StoredHandoff } from "../../store/handoff-row.ts";
import type { Tx } from "../parts.ts";
import { type Gate, passGates } from "./gates.ts";
import { notOwner, wrongState } from "./look-up.ts";
import { newMessageId, sendOffer, tellHandoff } from "./messages.ts";
import { dropOffer, GONE_ON, type Moving } from "./moves.ts";

/** What `initiate` returns: the handoff as it is stored, and whether it was there before. */
export type InitiatedHandoff = Handoff & { readonly duplicate: boolean };

/** How an offer is made. */
export interface OfferOptions {
  /** Checked besides those of the outbox. */
  readonly gates: readonly Gate[];
  /** The giver's run ends with the offer. */
  readonly detached: boolean;
}

/** Two agents that hand a task to and fro, or that nobody stops from offering what is rejected, end here. */
const MOST_ASSIGNMENTS = 200;

/** Checks and stores offers. */
export class Offering {
  readonly #moving: Moving;
  readonly #gates: readonly Gate[];

  constructor(moving: Moving, gates: readonly Gate[]) {
    this.#moving = moving;
    this.#gates = gates;
  }

  async offer(
    trx: Tx,
    draft: HandoffDraft,
    { gates, detached }: OfferOptions,
  ): Promise<InitiatedHandoff> {
    const handoffId = draft.handoffId ?? `handoff_${randomBytes(16).toString("hex")}`;
    const known = await this.#moving.store.get(handoffId, trx);
    // A run that ends with an offer needs one of its own: an old one would never bring the task back.
    if (known !== undefined && detached) {
      throw wrongState(known, `there is a handoff "${handoffId}" already: it is ${known.state}`);
    }
    if (known !== undefined) return { ...shown(known), duplicate: true };
    const texts = sheetTexts(draft);
    const task = draft.taskId === undefined ? undefined : await this.#ownTask(trx, draft);
    const to = await this.#target(trx, draft, task);
    const warnings = await passGates(this.#moving, trx, [...this.#gates, ...gates], {
      stage: "beforeHandoff",
      agentId: draft.from,
      taskId: draft.taskId ?? null,
      task: task ?? null,
      handoff: { ...draft, to },
      output: draft.deliverables,
    });
    const stored = await this.#moving.store.insert(trx, {
      handoff_id: handoffId,
      from_agent: draft.from,
      to_agent: to,
      required_capabilities:
        draft.requires === undefined ? null : JSON.stringify(draft.requires.map(requirementText)),
      task_id: draft.taskId ?? null,
      assignment: task?.assignment ?? null,
      detached: detached ? 1 : 0,
      context_id: draft.contextId ?? task?.contextId ?? null,
      correlation_id: draft.correlationId ?? task?.correlationId ?? null,
      reason: draft.reason,
      ...texts,
      priority: draft.priority ?? task?.priority ?? DEFAULT_PRIORITY,
      estimated_effort: draft.estimatedEffort ?? null,
      message_id: newMessageId(handoffId, "offer"),
      warnings: warnings.length === 0 ? null : JSON.stringify(warnings),
      dueMs: draft.dueMs,
    });
    await sendOffer(this.#moving.parts, trx, stored);
    tellHandoff(this.#moving.parts, trx, stored);
    return { ...shown(stored), duplicate: false };
  }

  /** The task, locked until the commit, so that nobody ends or moves it meanwhile. */
  async #ownTask(trx: Tx, { taskId = "", from }: HandoffDraft): Promise<Task> {
    const task = await this.#moving.parts.tasks.lock(trx, taskId);
    if (task === undefined) {
      throw new AgentCommunicationError("UNKNOWN_TASK", `there is no task "${taskId}"`, {
        details: { taskId },
      });
    }
    if (isEnd(task.state) || task.agentId !== from) {
      throw notOwner(
        isEnd(task.state)
          ? `the task "${taskId}" has ended: it is ${task.state}`
          : `the task "${taskId}" is not with "${from}" but with ${task.agentId === null ? "nobody" : `"${task.agentId}"`}`,
        { taskId, agentId: task.agentId },
      );
    }
    if (task.assignment >= MOST_ASSIGNMENTS) {
      throw new AgentCommunicationError(
        "HANDOFF_STATE",
        `the task "${taskId}" was assigned ${task.assignment} times: it goes in circles`,
        {
          details: { taskId, assignment: task.assignment },
          recoverySuggestion: "End it here: answer, fail, or cancel it.",
        },
      );
    }
    const open = (await this.#moving.store.liveOf(taskId, trx)).find(
      ({ state }) => state === "offered",
    );
    if (open !== undefined && open.assignment === task.assignment) {
      throw wrongState(open, `the task "${taskId}" is offered already, to "${open.to}"`);
    }
    // Of a run that is over: nobody can accept it, and a sweep has not come to it yet.
    if (open !== undefined) await dropOffer(this.#moving, trx, open, "withdrawn", GONE_ON);
    return task;
  }

  async #target(trx: Tx, draft: HandoffDraft, task: Task | undefined): Promise<string> {
    const { agents, matching } = this.#moving.parts;
    if (draft.to !== undefined) {
      if (draft.to === draft.from) throw notOwner(`"${draft.from}" cannot hand over to itself`, {});
      if ((await agents.get(draft.to, trx)) === undefined) {
        throw new UnknownRecipient(`there is no agent "${draft.to}"`, {
          details: { agentId: draft.to },
        });
      }
      return draft.to;
    }
    const needs = { required: draft.requires ?? [], preferred: [] };
    const [best] = await matching.candidates(trx, needs, {
      limit: 1,
      cost: task?.cost ?? 1,
      exclude: task === undefined ? [draft.from] : [draft.from, task.supervisorId],
    });
    if (best !== undefined) return best.agentId;
    const requires = needs.required.map(requirementText);
    throw new AgentCommunicationError(
      "HANDOFF_NO_TARGET",
      `no other agent with room meets all of: ${requires.join(", ")}`,
      { details: { requires } },
    );
  }
}

export function shown({ detached: _, ...handoff }: StoredHandoff): Handoff {
  return handoff;
}
