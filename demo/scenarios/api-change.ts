/**
 * SOLEil, scenario 2: one module needs a new field of another module's API. Submit, review, approve, implement,
 * update, test on both sides, complete: eight steps of one workflow. The approval is a person's: the workflow waits
 * for it, however long that takes, and in no process's memory.
 */
import type { Workflow } from "../../lib/index.ts";
import { Cast, type Scenario, until } from "./scenario.ts";

const CHANGE = { module: "drive", call: "getFile", new_fields: ["checksum"] };

/** The API of the drive module, which really changes. */
interface Drive {
  version: number;
  getFile(id: string): Record<string, string>;
}

export interface ApiChangeResult {
  readonly workflow: Workflow;
  readonly version: number;
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
      onMessage: (message: { content: unknown }) => {
        const { version } = message.content as { version: number };
        say(module, `hears that the drive's API is at version ${version}`);
        told.add(module);
      },
    });

    await cast.agent(
      "content-module",
      {
        submit: () => {
          say(
            "content-module",
            `asks for ${CHANGE.new_fields.join(", ")} in ${CHANGE.module}.${CHANGE.call}`,
          );
          return { request: CHANGE };
        },
        update: () => {
          reads = "checksum";
          say("content-module", "reads the new field from now on");
        },
        test_consumer: () => {
          const value = drive.getFile("file-1")[reads];
          if (value === undefined) throw new Error(`the drive gives no ${reads}`);
          say("content-module", "its tests pass");
          return { report: "12 passed", side: "consumer" };
        },
      },
      { capabilities: ["content"], ...hear("content-module") },
    );
    await cast.agent(
      "drive-module",
      {
        review: () => {
          say("drive-module", "reviewed: nothing breaks, small effort, no migration");
          return { breaking_changes: false, migration_required: false, estimated_effort: "small" };
        },
        implement: () => {
          drive.version = 2;
          drive.getFile = (id) => ({ id, name: "score.pdf", checksum: "9f86d081" });
          say("drive-module", "implemented version 2");
          return { version: drive.version };
        },
        revert: () => {
          drive.version = 1;
          drive.getFile = (id) => ({ id, name: "score.pdf" });
        },
        test_provider: () => {
          if (drive.getFile("file-1").checksum === undefined) throw new Error("no checksum");
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
    say("change-coordinator", `the change is ${workflow.state}`);
    return { workflow, version: drive.version, told: [...told].sort() };
  },
};
