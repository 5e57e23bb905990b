import { afterCommit } from "../../store/after-commit.ts";
import type { WorkflowRow } from "../../store/workflows/rows.ts";
import type { Parts, Tx } from "../parts.ts";

/** Tells observers of a move, once it has committed. */
export function tellWorkflow(
  { observers }: Pick<Parts, "observers">,
  trx: Tx,
  { workflowId, workflowType, supervisorId, correlationId }: WorkflowRow,
  event: string,
  data: Readonly<Record<string, unknown>> = {},
): void {
  if (!observers.active) return;
  afterCommit(trx, () =>
    observers.emit([
      {
        type: "agent",
        event,
        agentId: supervisorId,
        at: Date.now(),
        data: {
          workflow_id: workflowId,
          workflow_type: workflowType,
          ...(correlationId === null ? {} : { correlation_id: correlationId }),
          ...data,
        },
      },
    ]),
  );
}
