import { beforeEach, describe, expect, it } from "vitest";
import {
  createTransferTool,
  type Handoff,
  handoffMarkdown,
  type TransferToolOptions,
} from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";
import { stage, wipe } from "./stage.ts";

eachDatabase("a transfer tool", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
    await on.agent("detection-agent");
    await on.agent("analysis-agent");
  });
  const tool = (more: Partial<TransferToolOptions> = {}) =>
    createTransferTool({
      to: "analysis-agent",
      from: "detection-agent",
      handoffs: on.handoffs,
      ...more,
    });
  const incident = { incident_data: { id: "inc_1", ip: "10.0.0.1" } };

  it("describes itself, and hands over", async () => {
    const transfer = tool();
    expect(transfer.name).toBe("transfer_to_analysis");
    expect(transfer.parameters).toMatchObject({
      type: "object",
      required: ["incident_data"],
      properties: {
        incident_data: { type: "object" },
        priority: { default: "normal", enum: ["low", "normal", "high", "critical"] },
      },
    });
    const result = await transfer.execute({ ...incident, priority: "high" });
    expect(result).toMatchObject({
      ok: true,
      status: "offered",
      source_agent: "detection-agent",
      target_agent: "analysis-agent",
      incident_id: "inc_1",
      priority: "high",
      message: expect.stringContaining("Offered to analysis-agent"),
    });
    const [handoff] = await on.handoffs.list();
    expect(handoff).toMatchObject({
      reason: "expertise_required",
      priority: 30,
      currentState: { incident_id: "inc_1", incident_data: incident.incident_data },
      deliverables: { incident_id: "inc_1" },
    });
  });

  it("tells the model what went wrong, and never throws", async () => {
    for (const args of [undefined, "nonsense", { priority: "high" }, { incident_data: [] }]) {
      expect(await tool().execute(args)).toMatchObject({ ok: false, code: "VALIDATION_FAILED" });
    }
    const unknown = await tool({ to: "nobody" }).execute(incident);
    expect(unknown).toMatchObject({
      ok: false,
      status: "error",
      code: "UNKNOWN_RECIPIENT",
      message: expect.stringContaining("Nothing was handed over"),
      recovery_suggestion: expect.any(String),
    });
    const broken = { initiate: () => Promise.reject("just text"), get: async () => null };
    expect(await tool({ handoffs: broken }).execute(incident)).toMatchObject({
      ok: false,
      code: "TRANSFER_FAILED",
    });
  });

  it("offers once per call of the model", async () => {
    const call = { toolCallId: "call_0" };
    const first = await tool().execute(incident, call);
    expect(await tool().execute(incident, call)).toMatchObject({
      duplicate: true,
      handoff_id: first.ok && first.handoff_id,
    });
    const other = { incident_data: { id: "inc_2" } };
    expect(await tool().execute(other, call)).toMatchObject({ ok: true, duplicate: false });
  });

  it("waits for the decision where it is told to", async () => {
    const deciding = (async () => {
      for (;;) {
        const [offer] = await on.handoffs.list({ state: "offered" });
        if (offer !== undefined) {
          return on.handoffs.reject(offer.handoffId, "analysis-agent", "too busy");
        }
      }
    })();
    const result = await tool({ waitMs: 20_000 }).execute(incident);
    await deciding;
    expect(result).toMatchObject({
      ok: true,
      status: "rejected",
      message: expect.stringContaining("declined: too busy"),
    });
  });

  it("has the shapes of other SDKs", async () => {
    const transfer = tool();
    const schema = transfer.parameters;
    const { name, description } = transfer;
    const text = JSON.stringify(incident);

    const openai = transfer.openai();
    expect(openai.definition).toEqual({
      type: "function",
      function: { name, description, parameters: schema },
    });
    const answer = await openai.call({ id: "c1", function: { arguments: text } });
    expect(answer).toMatchObject({ role: "tool", tool_call_id: "c1" });
    expect(JSON.parse(answer.content)).toMatchObject({ ok: true });
    const bad = await openai.call({ id: "c1", function: { arguments: "{" } });
    expect(JSON.parse(bad.content)).toMatchObject({ ok: false, code: "VALIDATION_FAILED" });

    const responses = transfer.openaiResponses();
    expect(responses.definition).toMatchObject({ type: "function", name, strict: false });
    expect(await responses.call({ call_id: "c2", arguments: text })).toMatchObject({
      type: "function_call_output",
      call_id: "c2",
    });

    const ai = transfer.aiSdk();
    expect(ai.inputSchema.parse(incident)).toMatchObject({ priority: "normal" });
    expect(await ai.execute(incident, { toolCallId: "c3" })).toMatchObject({ ok: true });
    expect(await ai.execute(incident, { toolCallId: "c3" })).toMatchObject({ duplicate: true });

    const adk = transfer.adk();
    expect(adk).toMatchObject({ name, description });
    expect(await adk.execute(incident, { functionCallId: "c4" })).toMatchObject({ ok: true });

    const anthropic = transfer.anthropic();
    expect(anthropic.definition).toEqual({ name, description, input_schema: schema });
    expect(await anthropic.call({ id: "t1", input: {} })).toMatchObject({
      type: "tool_result",
      tool_use_id: "t1",
      is_error: true,
    });

    const mcp = transfer.mcp();
    expect(mcp.definition).toMatchObject({ name, inputSchema: { type: "object" } });
    expect(await mcp.call(incident)).toMatchObject({
      content: [{ type: "text", text: expect.stringContaining("Offered") }],
      structuredContent: { ok: true },
      isError: false,
    });

    const mastra = transfer.mastra();
    expect(mastra.id).toBe(name);
    expect(await mastra.execute(incident, { agent: { toolCallId: "m1" } })).toMatchObject({
      ok: true,
    });
    expect(await mastra.execute({ context: incident })).toMatchObject({ ok: true });
  });

  it("checks its options", async () => {
    const { handoffs } = on;
    for (const options of [
      { to: "b", from: "a" },
      { to: "b", handoffs },
      { to: "b", from: "a", handoffs, context: { handOff: async () => ({}) } },
      { to: "b", from: "a", handoffs, name: "no spaces" },
      { to: "b", from: "a", context: { handOff: async () => ({}) } },
      { to: "", from: "a", handoffs },
    ]) {
      const wrong = options as unknown as TransferToolOptions;
      expect(await failure(() => createTransferTool(wrong))).toMatchObject({
        code: "VALIDATION_FAILED",
      });
    }
    const names = ["mapping-agent-01", "analysis", "upload_agent", "…", "a.b:agent"].map(
      (to) => tool({ to }).name,
    );
    expect(names).toEqual([
      "transfer_to_mapping",
      "transfer_to_analysis",
      "transfer_to_upload",
      "transfer_to_agent",
      "transfer_to_a_b",
    ]);
  });
});

describe("the sheet of a handoff", () => {
  const handoff: Handoff = {
    handoffId: "h1",
    from: "Upload Agent",
    to: "Mapping Agent",
    requiredCapabilities: null,
    taskId: "t1",
    assignment: 1,
    contextId: null,
    correlationId: null,
    reason: "stage done",
    currentState: { rows: 5_234 },
    context: {
      accomplished: ["Successfully uploaded employee_data.csv (5,234 rows)"],
      dataState: "Detected entity type: Employee",
      warnings: ["two\n### lines"],
    },
    deliverables: { file_id: "abc123-def456", columns: ["emp_id", "email"] },
    actionsRequired: ["Generate mappings"],
    priority: 30,
    estimatedEffort: "<5 seconds",
    state: "offered",
    note: null,
    outcome: null,
    warnings: [],
    messageId: "m",
    seq: 1,
    createdAt: Date.UTC(2025, 10, 6, 14, 23, 15),
    dueAt: 0,
    acceptedAt: null,
    startedAt: null,
    endedAt: null,
  };

  it("is Markdown", () => {
    expect(handoffMarkdown(handoff)).toBe(`### 🔄 Agent Handoff

**From**: Upload Agent
**To**: Mapping Agent
**Timestamp**: 2025-11-06T14:23:15.000Z
**Handoff**: h1 (offered)
**Task**: t1
**Reason**: stage done

**Context**:
- Successfully uploaded employee_data.csv (5,234 rows)
- Detected entity type: Employee
- Current state: {"rows":5234}
- Warning: two ### lines

**Deliverables**:
- file_id: abc123-def456
- columns: ["emp_id","email"]

**Action Required**:
- Generate mappings

**Priority**: High

**Estimated Effort**: <5 seconds
`);
    const words = [40, 20, 19, 0].map(
      (priority) => /Priority\*\*: (\w+)/.exec(handoffMarkdown({ ...handoff, priority }))?.[1],
    );
    expect(words).toEqual(["Critical", "Medium", "Low", "Low"]);
  });
});
