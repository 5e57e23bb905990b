/** The recipes that the README quotes, run by the real jq on files that the logger wrote. */
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { FileLogger } from "../../lib/observability/file-logger.ts";
import type { LogLayout } from "../../lib/observability/log-files.ts";
import type { MessageEvent, MessageEventName, OutboxEvent } from "../../lib/protocol/events.ts";
import { JQ_RECIPES } from "./jq-recipes.ts";
import { messageEvent, NOON, tempDir } from "./support.ts";

const jqInstalled = spawnSync("jq", ["--version"]).status === 0;

/** What happened, with the seconds after noon at which it did. */
function day(): OutboxEvent[] {
  const events: OutboxEvent[] = [];
  const message = (
    seconds: number,
    messageId: string,
    event: MessageEventName,
    over: Partial<MessageEvent> = {},
  ) => events.push(messageEvent({ messageId, event, at: NOON + seconds * 1_000, ...over }));
  const task = (
    seconds: number,
    taskId: string,
    agentId: string | null,
    event: "submitted" | "assigned" | "completed" | "failed" | "cancelled",
    data: Record<string, unknown> = {},
  ) => events.push({ type: "task", taskId, agentId, event, data, at: NOON + seconds * 1_000 });
  const error = (errorType: string, agentId: string, over: { messageId?: string } = {}) =>
    events.push({ type: "error", agentId, errorType, errorMessage: "…", at: NOON, ...over });

  const talk = { correlationId: "corr_1" };
  message(0, "msg_1", "sent", talk);
  message(1.5, "msg_1", "delivered", talk);
  message(3, "msg_1", "processed", talk);
  const answer = { fromAgent: "agent_002", toAgent: "agent_001", messageType: "TASK_RESPONSE" };
  message(4, "msg_2", "sent", { ...talk, ...answer });
  message(5.25, "msg_2", "processed", { ...talk, ...answer });
  message(60, "msg_3", "sent", { taskId: "task_1" });
  message(61, "msg_3", "retried", { attempt: 1, reason: "timeout" });
  message(62, "msg_3", "retried", { attempt: 2, reason: "timeout" });
  message(63, "msg_3", "dead_lettered", { attempt: 3, reason: "max_attempts" });
  message(70, "msg_4", "sent");
  message(71, "msg_4", "retried", { attempt: 1 });
  message(90, "msg_4", "processed");
  message(130, "msg_5", "sent");
  message(131, "msg_6", "sent", { messageType: "HEARTBEAT" });
  message(132, "msg_6", "expired", { messageType: "HEARTBEAT" });

  task(60, "task_1", null, "submitted");
  task(61, "task_1", "upload-agent", "assigned");
  task(67, "task_1", "upload-agent", "completed", { duration_ms: 6_000, success: true });
  task(61, "task_2", "upload-agent", "assigned");
  task(62, "task_2", "upload-agent", "failed", { duration_ms: 1_000, success: false });
  task(63, "task_3", "mapping-agent", "completed", { duration_ms: 9_000, success: true });
  task(64, "task_4", null, "submitted");
  task(65, "task_5", null, "cancelled", { duration_ms: 1, success: false });
  task(66, "task_6", "mapping-agent", "assigned");

  error("timeout", "agent_002", { messageId: "msg_3" });
  error("timeout", "agent_001");
  error("timeout", "agent_002");
  error("schema", "agent_003");

  const alive = (seconds: number, agentId: string, event: string) =>
    events.push({ type: "agent", agentId, event, data: {}, at: NOON + seconds * 1_000 });
  alive(0, "agent_001", "registered");
  alive(5.5, "agent_001", "status_change");
  alive(0, "agent_002", "registered");
  alive(30, "agent_002", "status_change");

  const metric = (agentId: string, value: number) =>
    events.push({ type: "metric", agentId, metric: "response_time", value, unit: "ms", at: NOON });
  metric("agent_001", 125.5);
  metric("agent_001", 74.5);
  metric("agent_002", 10);
  return events;
}

const lines = (...rows: string[]) => `${rows.join("\n")}\n`;
const tabbed = (...rows: (string | number)[][]) => lines(...rows.map((row) => row.join("\t")));
const at = (time: string) => `2024-01-15T12:${time}Z`;

/** The answers for that day; objects where jq prints JSON over several lines, text where it prints rows. */
const ANSWERS: Readonly<Record<string, unknown>> = {
  "Sent but not finished": tabbed([
    at("02:10.000"),
    "msg_5",
    "agent_001",
    "agent_002",
    "task_assignment",
  ]),
  "Seconds from sent to processed, p50 and p95 per recipient": [
    { agent: "agent_001", n: 1, p50: 1, p95: 1 },
    { agent: "agent_002", n: 2, p50: 3, p95: 3 },
  ],
  "One conversation as a timeline": lines(
    `${at("00:00.000")} sent task_assignment agent_001->agent_002`,
    `${at("00:01.500")} delivered task_assignment agent_001->agent_002`,
    `${at("00:03.000")} processed task_assignment agent_001->agent_002`,
    `${at("00:04.000")} sent task_response agent_002->agent_001`,
    `${at("00:05.250")} processed task_response agent_002->agent_001`,
  ),
  "Everything about one id, over all files": lines(
    `{"file":"errors_2024-01-15.jsonl","agent_id":"agent_002","error_type":"timeout","error_message":"…","timestamp":"${at("00:00.000")}","v":1,"message_id":"msg_3"}`,
    ...[
      ["sent", "01:00.000", '"task_id":"task_1"'],
      ["retried", "01:01.000", '"attempt":1,"reason":"timeout"'],
      ["retried", "01:02.000", '"attempt":2,"reason":"timeout"'],
      ["dead_lettered", "01:03.000", '"attempt":3,"reason":"max_attempts"'],
    ].map(
      ([event, time = "", extras]) =>
        `{"file":"message_audit_2024-01-15.jsonl","message_id":"msg_3","from_agent":"agent_001","to_agent":"agent_002","message_type":"task_assignment","event":"${event}","timestamp":"${at(time)}","v":1,${extras}}`,
    ),
  ),
  "Task success rate per agent": [
    { agent: "mapping-agent", total: 1, success_rate: 1 },
    { agent: "upload-agent", total: 2, success_rate: 0.5 },
  ],
  "Tasks without an end": tabbed(
    ["task_4", "", "submitted", at("01:04.000")],
    ["task_6", "mapping-agent", "assigned", at("01:06.000")],
  ),
  "Tasks beyond the time that their agent is allowed (milliseconds per agent)": lines(
    '{"task_id":"task_1","agent_id":"upload-agent","ms":6000}',
  ),
  "Errors by type, with the agents that met them": [
    { error_type: "timeout", n: 3, agents: ["agent_001", "agent_002"] },
    { error_type: "schema", n: 1, agents: ["agent_003"] },
  ],
  "The messages retried most often": tabbed(["msg_3", "agent_002", 2], ["msg_4", "agent_002", 1]),
  "Dead letters by type and reason": [
    { type: "task_assignment", reason: "max_attempts", n: 1, ids: ["msg_3"] },
  ],
  "Agents that said nothing for more than 90 seconds": tabbed(["agent_001", at("00:05.500")]),
  "Who talks to whom, for Graphviz": lines(
    "digraph{",
    '  "agent_001"->"agent_002" [label=5]',
    '  "agent_002"->"agent_001" [label=1]',
    "}",
  ),
  "Messages sent per minute": tabbed(
    ["2024-01-15T12:00", 2],
    ["2024-01-15T12:01", 2],
    ["2024-01-15T12:02", 2],
  ),
  "Metric averages and maxima per agent": [
    { agent: "agent_001", metric: "response_time", unit: "ms", n: 2, avg: 100, max: 125.5 },
    { agent: "agent_002", metric: "response_time", unit: "ms", n: 1, avg: 10, max: 10 },
  ],
};

/** A `date` that answers two minutes after noon, for the recipe that asks for the time. */
function stoppedClock(): string {
  const bin = join(tempDir(), "bin");
  mkdirSync(bin);
  writeFileSync(join(bin, "date"), `#!/bin/sh\necho ${at("02:00")}\n`);
  chmodSync(join(bin, "date"), 0o755);
  return bin;
}

test("there is an answer to every recipe", () => {
  expect(JQ_RECIPES.map((recipe) => recipe.title)).toEqual(Object.keys(ANSWERS));
});

describe.runIf(jqInstalled).each<LogLayout>(["by-date", "flat"])(
  "jq on the layout %s",
  (layout) => {
    test.each(JQ_RECIPES)("$title", async ({ title, command }) => {
      const baseDir = tempDir();
      await using logger = new FileLogger({ baseDir, layout });
      logger.observer(day());
      await logger.flush();
      const output = execFileSync("sh", ["-c", command], {
        cwd: layout === "flat" ? baseDir : join(baseDir, "2024-01-15"),
        encoding: "utf8",
        env: { ...process.env, PATH: `${stoppedClock()}:${process.env.PATH}` },
      });
      const answer = ANSWERS[title];
      expect(typeof answer === "string" ? output : JSON.parse(output)).toEqual(answer);
    });
  },
);
