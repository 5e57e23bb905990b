/**
 * SOLEil, scenario 2: one module needs a new field of another module's API. Submit, review, approve, implement,
 * update, test on both sides, complete: eight steps of one workflow, each of which moves the change request on. The
 * approval is a person's: the workflow waits for it, however long that takes, and in no process's memory.
 */
import type { ChangeMove, Workflow } from "../../lib/index.ts";
import { Cast, type Scenario, until } from "./scenario.ts";

const CHANGE = { module: "drive", call: "getFile", new_fields: ["checksum"] };

/** What the later steps are told by the first. */
const REQUEST = "$.steps.submit.result.request";

/** The API of the drive module, which really changes. */
interface Drive {
  version: number;
  getFile(id: string): Record<string, string>;
}

export interface ApiChangeResult {
  readonly workflow: Workflow;
  readonly version: number;
  /** Where the change request went. */
  readonly moves: readonly ChangeMove["to"][];
  /** Who was told that the API has changed. */
  readonly told: readonly string[];
}

export const apiChange: Scenario<ApiChangeResult> = {
  name: "api-change",
  title: "SOLEil: a change of an API, from the request over its approval to tests on both sides",
  async play(stage) {
    const { outbox, say } = stage;
    await using cast = new Cast(stage);
    cast.supervisor("change-coordinator");
    const drive: Drive = { version: 1, getFile: (id) => ({ id, name: "score.pdf" }) };
    let reads = "name";
    const told = new Set<string>();
    const hear = (module: string) => ({
      onMessage: (message: { messageType: string; content: unknown }) => {
        const { version, state } = message.content as { version: number; state: string };
        if (message.messageType === "CHANGE_REQUEST_UPDATED") {
          say(module, `hears that its request is ${state}`);
          return;
        }
        say(module, `hears that the drive's API is at version ${version}`);
        told.add(module);
      },
    });

    await cast.agent(
      "content-module",
      {
        submit: async () => {
          const request = await outbox.changes.request({
            requestingAgent: "content-module",
            affectedModules: ["content", "drive"],
            changeType: "api_update",
            description: `${CHANGE.module}.${CHANGE.call} also tells ${CHANGE.new_fields.join(", ")}`,
            changes: CHANGE,
            testingPlan: { integrationTests: ["provider", "consumer"] },
            module: "content",
          });
          say(
            "content-module",
            `asks for ${CHANGE.new_fields.join(", ")} in ${CHANGE.module}.${CHANGE.call}`,
          );
          return { request };
        },
        update: () => {
          reads = "checksum";
          say("content-module", "reads the new field from now on");
        },
        test_consumer: async ({ parameters }) => {
          const value = drive.getFile("file-1")[reads];
          if (value === undefined) throw new Error(`the drive gives no ${reads}`);
          const report = { module: "content", by: "content-module", passed: 12, failed: 0 };
          await outbox.changes.report(String(parameters.request), report);
          say("content-module", "its tests pass");
          return { report: "12 passed", side: "consumer" };
        },
      },
      { capabilities: ["content"], ...hear("content-module") },
    );
    await cast.agent(
      "drive-module",
      {
        review: async ({ parameters }) => {
          await outbox.changes.review(String(parameters.request), { by: "drive-module" });
          say("drive-module", "reviewed: nothing breaks, small effort, no migration");
          return { breaking_changes: false, migration_required: false, estimated_effort: "small" };
        },
        implement: async ({ parameters }) => {
          const request = String(parameters.request);
          // The person's signal, on record for both modules.
          const approval = { by: "drive-owner", comment: "it may change" };
          await outbox.changes.approve(request, { module: "drive", ...approval });
          await outbox.changes.approve(request, { module: "content", ...approval });
          await outbox.changes.implement(request, { by: "drive-module" });
          drive.version = 2;
          drive.getFile = (id) => ({ id, name: "score.pdf", checksum: "9f86d081" });
          say("drive-module", "implemented version 2");
          return { version: drive.version };
        },
        revert: () => {
          drive.version = 1;
          drive.getFile = (id) => ({ id, name: "score.pdf" });
        },
        test_provider: async ({ parameters }) => {
          if (drive.getFile("file-1").checksum === undefined) throw new Error("no checksum");
          const request = String(parameters.request);
          const report = { module: "drive", by: "drive-module", passed: 31, failed: 0 };
          await outbox.changes.report(request, report);
          say("drive-module", "its tests pass");
          return { report: "31 passed", side: "provider" };
        },
      },
      { capabilities: ["drive"], ...hear("drive-module") },
    );
    await cast.agent(
      "change-board",
      {
        complete: ({ parameters }, { tx }) =>
          tx(async (trx) => {
            const change = { by: "change-board", tx: trx };
            await outbox.changes.test(String(parameters.request), change);
            await outbox.changes.complete(String(parameters.request), change);
            await outbox.queue.sendMessage(
              {
                fromAgent: "change-board",
                toAgent: ["content-module", "drive-module"],
                messageType: "API_CHANGED",
                content: { ...CHANGE, version: drive.version },
              },
              { tx: trx },
            );
            return { ...parameters, version: drive.version };
          }),
      },
      { capabilities: ["changes"] },
    );

    const step = (stepId: string, capability: string, dependsOn: string[] = []) => ({
      stepId,
      taskType: stepId,
      requiredCapabilities: [capability],
      dependsOn,
      ...(dependsOn.length === 0 ? {} : { inputs: { request: REQUEST } }),
    });
    const { workflowId } = await outbox.workflows.start({
      workflowType: "api_change",
      mode: "dag",
      supervisorId: "change-coordinator",
      steps: [
        step("submit", "content"),
        step("review", "drive", ["submit"]),
        { kind: "signal", stepId: "approve", dependsOn: ["review"], description: "may it change?" },
        {
          ...step("implement", "drive", ["approve"]),
          compensation: { taskType: "revert", requiredCapabilities: ["drive"] },
        },
        step("update", "content", ["implement"]),
        step("test_provider", "drive", ["update"]),
        step("test_consumer", "content", ["update"]),
        {
          ...step("complete", "changes", ["test_provider", "test_consumer"]),
          inputs: {
            request: REQUEST,
            provider: "$.steps.test_provider.result.report",
            consumer: "$.steps.test_consumer.result.report",
          },
        },
      ],
    });
    await until(async () => {
      const waiting = await outbox.workflows.get(workflowId);
      return waiting?.steps.some(
        ({ stepId, state }) => stepId === "approve" && state === "running",
      );
    });
    say("drive-owner", "approves");
    await outbox.workflows.signal(
      workflowId,
      "approve",
      { approved: true },
      { from: "drive-owner" },
    );
    const workflow = await outbox.workflows.wait(workflowId, { timeoutMs: 30_000 });
    await until(async () => told.size === 2);
    const [change] = await outbox.changes.list({ state: "completed" });
    const history = await outbox.changes.history(change?.requestId ?? "");
    say("change-coordinator", `${change?.requestId} is ${change?.state}`);
    const moves = history.map(({ to }) => to);
    return { workflow, moves, version: drive.version, told: [...told].sort() };
  },
};
