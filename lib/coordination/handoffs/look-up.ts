import { AgentCommunicationError } from "../../errors.ts";
import { type Handoff, handoffIdOf, isHandoffEnd } from "../../protocol/handoffs.ts";
import { id, parse } from "../../protocol/validate.ts";
import type { StoredHandoff } from "../../store/handoff-row.ts";
import type { HandoffStore } from "../../store/handoffs.ts";
import type { Tx } from "../parts.ts";

/**
 * The handoff, where the agent is the one on that side of it.
 *
 * @throws AgentCommunicationError UNKNOWN_HANDOFF, HANDOFF_NOT_OWNER
 */
export async function find(
  store: HandoffStore,
  trx: Tx,
  handoffId: string,
  agentId: string | undefined,
  side: "from" | "to",
): Promise<StoredHandoff> {
  const checked = handoffIdOf(handoffId);
  const handoff = await store.get(checked, trx);
  if (handoff === undefined) {
    throw new AgentCommunicationError("UNKNOWN_HANDOFF", `there is no handoff "${checked}"`, {
      details: { handoffId: checked },
    });
  }
  if (agentId !== undefined && parse(id, agentId, "agentId") !== handoff[side]) {
    const role = side === "to" ? "was offered to" : "was offered by";
    throw notOwner(`the handoff "${checked}" ${role} "${handoff[side]}", not "${agentId}"`, {
      handoffId: checked,
      agentId: handoff[side],
    });
  }
  return handoff;
}

/** Why a move was not legal, by what is stored now. */
export async function lateError(
  store: HandoffStore,
  trx: Tx,
  before: Handoff,
  wanted: string,
): Promise<AgentCommunicationError> {
  const now = (await store.get(before.handoffId, trx)) ?? before;
  const why = isHandoffEnd(now.state)
    ? `it is ${now.state}${now.note === null ? "" : ` (${now.note})`}`
    : now.state === "offered" && wanted === "accepted"
      ? "its time has passed, or its task has gone on"
      : `it is ${now.state}`;
  return wrongState(now, `the handoff "${now.handoffId}" cannot be ${wanted}: ${why}`);
}

export function notOwner(
  message: string,
  details: Record<string, unknown>,
): AgentCommunicationError {
  return new AgentCommunicationError("HANDOFF_NOT_OWNER", message, { details });
}

export function wrongState(
  { handoffId, state }: Handoff,
  message: string,
): AgentCommunicationError {
  return new AgentCommunicationError("HANDOFF_STATE", message, { details: { handoffId, state } });
}
