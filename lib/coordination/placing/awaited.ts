import { AgentCommunicationError } from "../../errors.ts";
import type { Awaited } from "../../store/assignments/dependencies.ts";
import type { Parts, Tx } from "../parts.ts";
import type { Submission } from "../submission.ts";

/** What a new task has to wait for. */
export interface Depends {
  /** The tasks that have not ended. */
  readonly open: readonly string[];
  readonly waitsFor: number;
  /** One that did not complete, where that ends the new task too. */
  readonly failed: Awaited | undefined;
  /** An agent may get it now. */
  readonly ready: boolean;
}

/**
 * The tasks that new ones depend on, locked, so that none of them ends before the new ones are stored. Those that are
 * new themselves are not in the answer.
 *
 * @throws AgentCommunicationError UNKNOWN_TASK
 */
export async function dependenciesOf(
  { dependencies }: Parts,
  trx: Tx,
  list: readonly Submission[],
): Promise<Map<string, Awaited>> {
  const fresh = new Set(list.map(({ row }) => row.task_id));
  const ids = list.flatMap(({ dependsOn }) => dependsOn).filter((id) => !fresh.has(id));
  if (ids.length === 0) return new Map();
  const found = await dependencies.lock(trx, ids);
  const unknown = ids.find((id) => !found.has(id));
  if (unknown !== undefined) {
    throw new AgentCommunicationError(
      "UNKNOWN_TASK",
      `there is no task "${unknown}" to depend on`,
      { details: { taskId: unknown } },
    );
  }
  return found;
}

export function settled(
  { dependsOn, whenFailed }: Submission,
  awaited: ReadonlyMap<string, Awaited>,
): Depends {
  const open = dependsOn.filter((id) => awaited.get(id)?.ended !== true);
  const failed =
    whenFailed === "run"
      ? undefined
      : dependsOn
          .map((id) => awaited.get(id))
          .find((one) => one?.ended === true && one.state !== "completed");
  return {
    open: failed === undefined ? open : [],
    waitsFor: open.length,
    failed,
    ready: open.length === 0 && failed === undefined,
  };
}
