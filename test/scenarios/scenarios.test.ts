import { expect, it } from "vitest";
import { apiChange } from "../../demo/scenarios/api-change.ts";
import { incident } from "../../demo/scenarios/incident.ts";
import { maintenance } from "../../demo/scenarios/maintenance.ts";
import { pipeline } from "../../demo/scenarios/pipeline.ts";
import { project } from "../../demo/scenarios/project.ts";
import { upload } from "../../demo/scenarios/upload.ts";
import { eachDatabase } from "../support/databases.ts";
import { played } from "./support.ts";

eachDatabase("SOLEil: an uploaded file", (database) => {
  it("goes from module to module, each step once, in one conversation", async () => {
    const { result, events, said } = await played(upload, await database.fresh());
    expect(result.told).toEqual(["user-ana", "user-ben", "user-caro"]);
    expect(
      result.messages.map(({ messageType, fromAgent, correlationId }) => [
        messageType,
        fromAgent,
        correlationId,
      ]),
    ).toEqual([
      ["DRIVE_FILE_ADDED", "drive-module", "upload-1"],
      ["CONTENT_PARSED", "content-module", "upload-1"],
      ["SYNC_FILE_AVAILABLE", "sync-module", "upload-1"],
    ]);
    const [added, parsed, synced] = result.messages;
    expect([parsed?.causationId, synced?.causationId]).toEqual([
      added?.messageId,
      parsed?.messageId,
    ]);
    // The webhook that came twice is one message; three users make the last one three.
    const processed = events.filter(
      (event) => event.type === "message" && event.event === "processed",
    );
    expect(processed).toHaveLength(5);
    expect(said).toContain("drive-module: the webhook came again, and counts once");
  });
});

eachDatabase("SOLEil: a change of an API", (database) => {
  it("goes through its eight steps, waits for its approval, and is tested on both sides", async () => {
    const { result, said, outbox } = await played(apiChange, await database.fresh());
    const { workflow } = result;
    expect(workflow.state).toBe("completed");
    const order = [...workflow.steps]
      .sort((a, b) => Number(a.completion) - Number(b.completion))
      .map(({ stepId }) => stepId);
    expect(order.slice(0, 5)).toEqual(["submit", "review", "approve", "implement", "update"]);
    expect(order.slice(5, 7).sort()).toEqual(["test_consumer", "test_provider"]);
    expect(order[7]).toBe("complete");
    expect(workflow.result).toMatchObject({
      review: { breaking_changes: false, estimated_effort: "small" },
      approve: { approved: true },
      complete: { provider: "31 passed", consumer: "12 passed", version: 2 },
    });
    expect(result).toMatchObject({ version: 2, told: ["content-module", "drive-module"] });
    expect(result.moves).toEqual([
      ...["submitted", "in_review", "approved", "implementing", "testing", "completed"],
    ]);
    const at = (line: string) => said.findIndex((one) => one.startsWith(line));
    expect(at("drive-owner: approves")).toBeLessThan(at("drive-module: implemented"));
    expect((await outbox.queue.getQueueStats()).pending).toBe(0);
  });
});

eachDatabase("SOLEil: maintenance", (database) => {
  it("makes all modules read-only, parks what is to be written, and loses none of it", async () => {
    const { result } = await played(maintenance, await database.fresh());
    expect(result).toMatchObject({
      readOnly: ["content-module", "sync-module"],
      readMeanwhile: ["content-module", "sync-module"],
      parked: 4,
      writtenBefore: 2,
    });
    expect(result.written).toHaveLength(6);
    for (const module of ["content-module", "sync-module"]) {
      expect(result.written.filter((one) => one.startsWith(module))).toEqual(
        [1, 2, 3].map((n) => `${module} ${n}`),
      );
    }
  });
});

eachDatabase("SentinelOps: an incident", (database) => {
  it("goes through its four steps in order, one of them handed over", async () => {
    const { result, outbox } = await played(incident, await database.fresh());
    const { workflow, handoffs } = result;
    expect(workflow.state).toBe("completed");
    expect(
      workflow.steps.map(({ taskType, state, completion }) => [taskType, state, completion]),
    ).toEqual([
      ["verify_incident", "completed", 1],
      ["analyze_root_cause", "completed", 2],
      ["apply_fixes", "completed", 3],
      ["notify_stakeholders", "completed", 4],
    ]);
    expect(workflow.result).toMatchObject({
      analyze: { root_cause: "a stolen password", confidence: 0.92 },
      fix: { applied: ["block_ip 198.51.100.7"] },
      notify: { notified: 2 },
    });
    expect(handoffs).toMatchObject([
      {
        from: "triage-agent",
        to: "analysis-agent",
        state: "completed",
        outcome: "completed",
        reason: "expertise_required",
        taskId: workflow.steps[1]?.taskId,
      },
    ]);
    const analysed = await outbox.tasks.get(String(workflow.steps[1]?.taskId));
    expect(analysed?.agentId).toBe("analysis-agent");
    for (const stakeholder of ["security-team", "service-owner"]) {
      const [message, ...more] = await outbox.queue.getMessages(stakeholder);
      expect(message?.content).toMatchObject({
        incident_id: "inc-7",
        root_cause: "a stolen password",
      });
      expect(more).toEqual([]);
    }
  });
});

eachDatabase("SnapMap: the pipeline", (database) => {
  it("goes on after a warning, and rolls back in reverse order when the delivery fails", async () => {
    const { result, outbox, said } = await played(pipeline, await database.fresh());
    const { workflow, stored, late } = result;
    expect(workflow.state).toBe("compensated");
    expect(workflow.steps.map(({ stepId, state }) => [stepId, state])).toEqual([
      ["upload", "completed"],
      ["map", "completed"],
      ["validate", "failed"],
      ["transform", "completed"],
      ["export", "completed"],
      ["deliver", "failed"],
    ]);
    expect(workflow.warnings).toMatchObject([
      { stepId: "validate", message: expect.stringContaining("A-2") },
    ]);
    expect(workflow.failure).toMatchObject({ stepId: "deliver", agentId: "sftp-agent" });
    const delivery = await outbox.tasks.get(String(workflow.steps[5]?.taskId));
    expect(delivery?.lastError?.code).toBe("TASK_TIMEOUT");
    expect(stored).toEqual([]);
    const undone = said.filter((line) => line.includes("rollback"));
    expect(undone).toEqual([
      "export-agent: rollback: removed export/products.xml",
      "upload-agent: rollback: removed upload/products.csv",
    ]);
    expect(late).toContain("export-agent");
    expect(result.refused).toContain("may not send FILE_TAKEN to");
    expect((await outbox.topology.get()).mode).toBe("mesh");
  });
});

eachDatabase("a backend supervisor", (database) => {
  it("splits a project into tasks, and releases it when its parts are done", async () => {
    const { result } = await played(project, await database.fresh());
    expect(result).toMatchObject({
      autonomous_tasks: ["api", "ui", "release"],
      coordination_enabled: true,
    });
    expect(result.ended.map(({ state, agentId }) => [state, agentId])).toEqual([
      ["completed", "python-worker"],
      ["completed", "react-worker"],
      ["completed", "release-manager"],
    ]);
    const [api, ui, release] = result.ended;
    const parts = [api, ui].map((task) => task?.finishedAt ?? Number.POSITIVE_INFINITY);
    expect(release?.startedAt).toBeGreaterThanOrEqual(Math.max(...parts));
  });
});
