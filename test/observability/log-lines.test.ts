/** What stands in the lines, and in which file each goes. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { FileLogger } from "../../lib/observability/file-logger.ts";
import type { MessageEventName, OutboxEvent } from "../../lib/protocol/events.ts";
import { DAY_MS, messageEvent, NOON, parsedLines, rawLines, tempDir } from "./support.ts";

/** Logs the events into flat files and returns the lines of one of them as they stand there. */
async function linesOf(file: string, ...events: OutboxEvent[]): Promise<string[]> {
  const baseDir = tempDir();
  await using logger = new FileLogger({ baseDir, layout: "flat" });
  logger.observer(events);
  await logger.flush();
  return rawLines(join(baseDir, `${file}_2024-01-15.jsonl`));
}

describe("lines", () => {
  test("message audit: the founding keys first, in their order, the type in lower case", async () => {
    const lines = await linesOf(
      "message_audit",
      messageEvent(),
      messageEvent({
        event: "retried",
        correlationId: "corr_1",
        traceId: "t1",
        taskId: "task_456",
        attempt: 2,
        reason: "timeout",
        durationMs: 12,
        at: NOON + 7,
      }),
    );
    expect(lines).toEqual([
      '{"message_id":"msg_123","from_agent":"agent_001","to_agent":"agent_002","message_type":"task_assignment","event":"sent","timestamp":"2024-01-15T12:00:00.000Z","v":1}',
      '{"message_id":"msg_123","from_agent":"agent_001","to_agent":"agent_002","message_type":"task_assignment","event":"retried","timestamp":"2024-01-15T12:00:00.007Z","v":1,"correlation_id":"corr_1","trace_id":"t1","task_id":"task_456","attempt":2,"reason":"timeout","duration_ms":12}',
    ]);
  });

  test("every message event is in the audit", async () => {
    const names: MessageEventName[] = [
      "sent",
      "delivered",
      "received",
      "read",
      "processed",
      "retried",
      "released",
      "expired",
      "rejected",
      "cancelled",
      "dead_lettered",
      "replayed",
    ];
    const lines = await linesOf("message_audit", ...names.map((event) => messageEvent({ event })));
    expect(lines.map((line) => JSON.parse(line).event)).toEqual(names);
  });

  test("agent activity, task history, performance and errors", async () => {
    const baseDir = tempDir();
    await using logger = new FileLogger({ baseDir }, () => NOON);
    const at = NOON;
    logger.observer([
      {
        type: "agent",
        agentId: "agent_001",
        event: "registered",
        data: { capabilities: ["a"] },
        at,
      },
      {
        type: "task",
        taskId: "task_456",
        agentId: "agent_002",
        event: "completed",
        data: { duration_ms: 1250, success: true },
        at,
        correlationId: "corr_1",
        attempt: 1,
      },
      { type: "task", taskId: "task_457", agentId: null, event: "submitted", data: {}, at },
      { type: "metric", agentId: "agent_001", metric: "load", value: 0.5, unit: "ratio", at },
      {
        type: "error",
        agentId: "agent_001",
        errorType: "timeout",
        errorMessage: "late",
        at,
        messageId: "msg_1",
        taskId: "task_456",
        correlationId: "corr_1",
        data: { code: 7 },
      },
    ]);
    logger.logAgentActivity("agent_001", "status_change", { new_status: "busy" });
    logger.logAgentActivity("agent_001", "idle");
    logger.logTask("task_457", "agent_002", "assigned");
    logger.logPerformanceMetric("agent_001", "response_time", 125.5, "ms");
    logger.logPerformanceMetric("agent_001", "response_time", Number.NaN, "ms");
    logger.logError("agent_001", "connection_error", "Connection failed");
    await logger.flush();

    const day = join(baseDir, "2024-01-15");
    const end = '"timestamp":"2024-01-15T12:00:00.000Z","v":1';
    const read = (file: string) => rawLines(join(day, `${file}_2024-01-15.jsonl`));
    expect(readdirSync(day).sort()).toEqual([
      "agent_activity_2024-01-15.jsonl",
      "errors_2024-01-15.jsonl",
      "performance_2024-01-15.jsonl",
      "task_history_2024-01-15.jsonl",
    ]);
    expect(read("agent_activity")).toEqual([
      `{"agent_id":"agent_001","event":"registered","data":{"capabilities":["a"]},${end}}`,
      `{"agent_id":"agent_001","event":"status_change","data":{"new_status":"busy"},${end}}`,
      `{"agent_id":"agent_001","event":"idle","data":{},${end}}`,
    ]);
    expect(read("task_history")).toEqual([
      `{"task_id":"task_456","agent_id":"agent_002","event":"completed","data":{"duration_ms":1250,"success":true},${end},"correlation_id":"corr_1","attempt":1}`,
      `{"task_id":"task_457","agent_id":"","event":"submitted","data":{},${end}}`,
      `{"task_id":"task_457","agent_id":"agent_002","event":"assigned","data":{},${end}}`,
    ]);
    expect(read("performance")).toEqual([
      `{"agent_id":"agent_001","metric":"load","value":0.5,"unit":"ratio",${end}}`,
      `{"agent_id":"agent_001","metric":"response_time","value":125.5,"unit":"ms",${end}}`,
      `{"agent_id":"agent_001","metric":"response_time","value":null,"unit":"ms",${end}}`,
    ]);
    expect(read("errors")).toEqual([
      `{"agent_id":"agent_001","error_type":"timeout","error_message":"late",${end},"correlation_id":"corr_1","task_id":"task_456","message_id":"msg_1","data":{"code":7}}`,
      `{"agent_id":"agent_001","error_type":"connection_error","error_message":"Connection failed",${end}}`,
    ]);
  });

  test("no value can begin a line of its own", async () => {
    const evil = 'x"}\n{"message_id":"forged","event":"processed"}\r\n\u2028\u0000\u001b[2J\ud800';
    const lines = await linesOf(
      "message_audit",
      messageEvent({
        messageId: evil,
        fromAgent: "../../etc/passwd",
        messageType: evil,
        reason: evil,
      }),
    );
    expect(lines).toHaveLength(1);
    const entry = JSON.parse(lines[0] ?? "");
    expect(entry.reason.slice(0, -1)).toBe(evil.slice(0, -1));
    expect(entry.event).toBe("sent");
    expect([...(lines[0] ?? "")].every((character) => character >= " ")).toBe(true);
  });

  test("a line never passes 64 KiB, stays valid JSON, and keeps what queries ask for", async () => {
    const huge = "🦊\n".repeat(100_000);
    const data = { output: huge, success: false, duration_ms: 12, list: [huge], nested: { huge } };
    const many = Object.fromEntries(Array.from({ length: 50_000 }, (_, i) => [`key${i}`, i]));
    const at = NOON;
    const baseDir = tempDir();
    await using logger = new FileLogger({ baseDir, layout: "flat" });
    logger.observer([
      { type: "task", taskId: "t1", agentId: "a1", event: "failed", data, at },
      { type: "task", taskId: "t2", agentId: "a1", event: "failed", data: many, at },
      {
        type: "error",
        agentId: "a1",
        errorType: "x",
        errorMessage: "\u0001".repeat(90_000),
        at,
        data,
      },
    ]);
    await logger.flush();
    const tasks = rawLines(join(baseDir, "task_history_2024-01-15.jsonl"));
    const errors = rawLines(join(baseDir, "errors_2024-01-15.jsonl"));
    for (const line of [...tasks, ...errors]) {
      expect(Buffer.byteLength(line) + 1).toBeLessThanOrEqual(65_536);
    }
    const first = JSON.parse(tasks[0] ?? "");
    expect(first).toMatchObject({ task_id: "t1", agent_id: "a1", event: "failed" });
    expect(first.data).toMatchObject({ success: false, duration_ms: 12, _truncated: true });
    expect(first.data.output).toMatch(/… \[truncated, 500000 bytes\]$/);
    expect(Buffer.from(first.data.output).toString(), "no half of a character").toBe(
      first.data.output,
    );
    expect(JSON.parse(tasks[1] ?? "").data).toMatchObject({ key0: 0, key99: 99, _truncated: true });
    expect(JSON.parse(errors[0] ?? "").error_message).toMatch(/… \[truncated, 90000 bytes\]$/);
    expect((await logger.getLogStats()).lines_truncated).toBe(3);
  });

  test("a line of just 64 KiB is left whole", async () => {
    const rest = JSON.parse(
      (await linesOf("message_audit", messageEvent({ reason: "" })))[0] ?? "",
    );
    const room = 65_536 - Buffer.byteLength(`${JSON.stringify(rest)}\n`);
    const [whole = "", cut = ""] = await linesOf(
      "message_audit",
      messageEvent({ reason: "x".repeat(room) }),
      messageEvent({ reason: "x".repeat(room + 1) }),
    );
    expect(Buffer.byteLength(whole) + 1).toBe(65_536);
    expect(JSON.parse(whole).reason).toHaveLength(room);
    expect(JSON.parse(cut).reason).toMatch(/truncated/);
  });

  test("odd data costs at most itself", async () => {
    const cyclic: Record<string, unknown> = { n: 1n };
    cyclic.self = cyclic;
    const throwing = {
      get bad(): never {
        throw new Error("no");
      },
    };
    const data = { changed: "before" };
    const baseDir = tempDir();
    await using logger = new FileLogger(
      { baseDir, layout: "flat", onWarning: () => {} },
      () => NOON,
    );
    logger.logAgentActivity("a", "cyclic", cyclic);
    logger.logAgentActivity("b", "throwing", throwing);
    logger.logAgentActivity("c", "proto", JSON.parse('{"__proto__":{"x":1}}'));
    logger.logAgentActivity("d", "snapshot", data);
    data.changed = "after";
    logger.logAgentActivity(undefined as never, "untyped", null as never);
    logger.logAgentActivity(Object.create(null), "impossible");
    await logger.flush();
    const lines = parsedLines(join(baseDir, "agent_activity_2024-01-15.jsonl"));
    expect(lines.map((line) => [line.agent_id, line.event])).toEqual([
      ["a", "cyclic"],
      ["b", "throwing"],
      ["c", "proto"],
      ["d", "snapshot"],
      ["", "untyped"],
    ]);
    expect(lines[0]?.data).toMatchObject({ n: 1, self: "[Circular]" });
    expect(lines[3]?.data).toEqual({ changed: "before" });
    expect((await logger.getLogStats()).lines_dropped).toBe(1);
  });
});

describe("days", () => {
  test("each event goes to the file of its own UTC day, also when the day changes while running", async () => {
    const baseDir = tempDir();
    const midnight = Date.parse("2024-02-29T00:00:00.000Z");
    let now = midnight - 1;
    await using logger = new FileLogger({ baseDir }, () => now);
    logger.logError("a", "x", "last of the 28th");
    now = midnight;
    logger.logError("a", "x", "first of the 29th");
    logger.observer([messageEvent({ at: midnight - 1 }), messageEvent({ at: midnight + DAY_MS })]);
    await logger.flush();
    now += DAY_MS;
    logger.logError("a", "x", "first of March");
    await logger.flush();

    const { log_files } = await logger.getLogStats();
    expect(log_files.map(({ path, lines_written }) => [path, lines_written])).toEqual(
      [
        "2024-02-28/errors_2024-02-28.jsonl",
        "2024-02-28/message_audit_2024-02-28.jsonl",
        "2024-02-29/errors_2024-02-29.jsonl",
        "2024-03-01/errors_2024-03-01.jsonl",
        "2024-03-01/message_audit_2024-03-01.jsonl",
      ].map((path) => [join(baseDir, path), 1]),
    );
    const first = parsedLines(join(baseDir, "2024-02-28/errors_2024-02-28.jsonl"))[0];
    expect(first?.timestamp).toBe("2024-02-28T23:59:59.999Z");
  });

  test.each([
    Number.NaN,
    Number.POSITIVE_INFINITY,
    8.64e15,
    -8.64e15,
    undefined as unknown as number,
  ])("an impossible time (%s) becomes the clock's", async (at) => {
    const baseDir = tempDir();
    await using logger = new FileLogger({ baseDir, layout: "flat" }, () => NOON);
    logger.observer([messageEvent({ at })]);
    await logger.flush();
    expect(readdirSync(baseDir)).toEqual(["message_audit_2024-01-15.jsonl"]);
  });
});
