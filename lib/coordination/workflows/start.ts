import { PayloadTooLarge } from "../../errors.ts";
import { jsonDocument } from "../../protocol/validate.ts";
import {
  MOST_DEFINITION_BYTES,
  MOST_INPUT_BYTES,
  MOST_STEP_BYTES,
  type WorkflowDraft,
} from "../../protocol/workflows.ts";
import type { NewStep, NewWorkflow } from "../../store/workflows/workflows.ts";

/** A signal is waited for once. */
const ONCE = { maxAttempts: 1, delayMs: 0, factor: 1 };

/** @throws ValidationFailed, PayloadTooLarge */
export function newWorkflow(draft: WorkflowDraft, workflowId: string): NewWorkflow {
  return {
    workflow_id: workflowId,
    workflow_type: draft.workflowType,
    mode: draft.mode,
    supervisor_id: draft.supervisorId,
    input: jsonDocument(
      { value: draft.input === undefined ? {} : draft.input },
      "workflow.input",
      MOST_INPUT_BYTES,
    ),
    context_id: draft.contextId ?? null,
    correlation_id: draft.correlationId ?? workflowId,
    on_failure: draft.onFailure,
    deadline_ms: draft.deadlineMs ?? null,
  };
}

/** @throws ValidationFailed, PayloadTooLarge */
export function newSteps({ steps }: WorkflowDraft): NewStep[] {
  let bytes = 0;
  return steps.map((step, position) => {
    const work = jsonDocument(step, `workflow.steps.${position}`, MOST_STEP_BYTES);
    bytes += Buffer.byteLength(work);
    if (bytes > MOST_DEFINITION_BYTES) {
      throw new PayloadTooLarge(
        `workflow.steps: all together have more than ${MOST_DEFINITION_BYTES} bytes`,
        { details: { maxBytes: MOST_DEFINITION_BYTES } },
      );
    }
    const { stepId, kind, dependsOn, severity, timeoutMs, compensation } = step;
    const signal = kind === "signal" ? (step.signal ?? stepId) : null;
    const plan = {
      kind,
      dependsOn,
      severity,
      retry: kind === "task" ? step.retry : ONCE,
      signal,
      taskType: kind === "task" ? step.taskType : null,
      timeoutMs: timeoutMs ?? null,
      undoable: compensation !== undefined,
    };
    return { stepId, part: "do", position, plan, work };
  });
}
