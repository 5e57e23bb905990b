/**
 * Turns an event into its line: the documented keys first and in their order, then the further ones. pino
 * writes the JSON, without the fields it would add by itself.
 */
import { createRequire } from "node:module";
import type { Logger } from "pino";
import type { OutboxEvent } from "../protocol/events.ts";
import type { LogFileName } from "./log-files.ts";

/** The longest line, its newline included, in bytes. */
export const MAX_LINE_BYTES = 65_536;

/** The version of the line format, in every line as `v`. */
const LINE_VERSION = 1;

export interface FormattedLine {
  readonly file: LogFileName;
  /** The UTC day of the event, which names its file. */
  readonly day: string;
  /** The JSON with its newline. */
  readonly text: string;
  readonly bytes: number;
  readonly truncated: boolean;
}

type LogRecord = Readonly<Record<string, unknown>>;

/** What pino wrote last; logging is synchronous, so one slot is enough. */
const slot = {
  text: "",
  write(text: string) {
    this.text = text;
  },
};

/** Loaded with the first line: most processes write none, and it takes 8 MB. */
let serializer: Logger | undefined;

function newSerializer(): Logger {
  const { pino } = createRequire(import.meta.url)("pino") as typeof import("pino");
  return pino(
    {
      level: "info",
      base: null,
      timestamp: false,
      formatters: { level: () => ({}) },
      // Without a level pino begins the line with `{,`.
      hooks: { streamWrite: (text) => (text.startsWith("{,") ? `{${text.slice(2)}` : text) },
    },
    slot,
  );
}

function serialize(record: LogRecord): string {
  slot.text = "";
  serializer ??= newSerializer();
  serializer.info(record);
  return slot.text;
}

/** The line of an event, or undefined for a kind of event that has no file. */
export function formatLine(event: OutboxEvent, now: () => number): FormattedLine | undefined {
  const timestamp = isoTime(event.at, now);
  const placed = place(event, timestamp);
  if (placed === undefined) return undefined;
  const [file, record] = placed;
  return { file, day: timestamp.slice(0, 10), ...shortened(record) };
}

// Outside these the ISO form is no longer `YYYY-MM-DDTHH:MM:SS.mmmZ`, and the file's name would not be ours.
const FIRST_INSTANT = Date.parse("0000-01-01T00:00:00.000Z");
const LAST_INSTANT = Date.parse("9999-12-31T23:59:59.999Z");

function isoTime(at: number, now: () => number): string {
  return new Date(at >= FIRST_INSTANT && at <= LAST_INSTANT ? at : now()).toISOString();
}

function place(event: OutboxEvent, timestamp: string): [LogFileName, LogRecord] | undefined {
  switch (event.type) {
    case "message":
      return [
        "message_audit",
        {
          message_id: text(event.messageId),
          from_agent: text(event.fromAgent),
          to_agent: text(event.toAgent),
          message_type: text(event.messageType).toLowerCase(),
          event: text(event.event),
          timestamp,
          v: LINE_VERSION,
          correlation_id: known(event.correlationId),
          trace_id: known(event.traceId),
          task_id: known(event.taskId),
          attempt: known(event.attempt),
          reason: known(event.reason),
          duration_ms: known(event.durationMs),
        },
      ];
    case "agent":
      return [
        "agent_activity",
        {
          agent_id: text(event.agentId),
          event: text(event.event),
          data: event.data ?? {},
          timestamp,
          v: LINE_VERSION,
        },
      ];
    case "task":
      return [
        "task_history",
        {
          task_id: text(event.taskId),
          // Empty while no agent has the task: jq cannot look up null in a table of limits per agent.
          agent_id: text(event.agentId),
          event: text(event.event),
          data: event.data ?? {},
          timestamp,
          v: LINE_VERSION,
          correlation_id: known(event.correlationId),
          attempt: known(event.attempt),
        },
      ];
    case "metric":
      return [
        "performance",
        {
          agent_id: text(event.agentId),
          metric: text(event.metric),
          value: event.value,
          unit: text(event.unit),
          timestamp,
          v: LINE_VERSION,
        },
      ];
    case "error":
      return [
        "errors",
        {
          agent_id: text(event.agentId),
          error_type: text(event.errorType),
          error_message: text(event.errorMessage),
          timestamp,
          v: LINE_VERSION,
          correlation_id: known(event.correlationId),
          task_id: known(event.taskId),
          message_id: known(event.messageId),
          data: known(event.data),
        },
      ];
    default:
      return undefined;
  }
}

/** A documented key is always there and always a string. */
function text(value: unknown): string {
  return typeof value === "string" ? value : value == null ? "" : String(value);
}

/** A key of ours is there only when its value is known; pino leaves undefined out. */
function known<T>(value: T | null | undefined): T | undefined {
  return value ?? undefined;
}

/** What an over-long line keeps: first generously, then so little that it always fits. */
const CUTS = [
  { chars: 4_000, dataBytes: 32_768 },
  { chars: 500, dataBytes: 2_048 },
] as const;

function shortened(record: LogRecord): Pick<FormattedLine, "text" | "bytes" | "truncated"> {
  const whole = serialize(record);
  const bytes = Buffer.byteLength(whole);
  if (bytes <= MAX_LINE_BYTES) return { text: whole, bytes, truncated: false };
  // Plain values from here on: no getters, cycles or toJSON.
  const plain = JSON.parse(whole) as Record<string, unknown>;
  let shorter = "";
  for (const cut of CUTS) {
    const entries = Object.entries(plain).map(([key, value]) => [
      key,
      typeof value === "string" ? cutText(value, cut.chars) : cutData(value, cut.dataBytes),
    ]);
    shorter = serialize(Object.fromEntries(entries));
    if (Buffer.byteLength(shorter) <= MAX_LINE_BYTES) break;
  }
  return { text: shorter, bytes: Buffer.byteLength(shorter), truncated: true };
}

function cutText(value: string, chars: number): string {
  if (value.length <= chars) return value;
  // A cut between the halves of a surrogate pair would leave a character that strict readers refuse.
  const kept = value.slice(0, chars).replace(/[\uD800-\uDBFF]$/, "");
  return `${kept}… [truncated, ${Buffer.byteLength(value)} bytes]`;
}

/** Keeps the small entries, which are what queries ask for, and leaves a marker for each large one. */
function cutData(data: unknown, budget: number): unknown {
  const json = JSON.stringify(data);
  if (Buffer.byteLength(json) <= budget) return data;
  if (typeof data !== "object" || data === null || Array.isArray(data)) {
    return { _truncated: true, preview: cutText(json, 200) };
  }
  const kept: Record<string, unknown> = {};
  let left = budget;
  for (const [key, value] of Object.entries(data)) {
    const size = jsonBytes(key) + 2;
    let short: unknown = value;
    if (size + jsonBytes(value) > Math.min(left, budget / 4)) {
      short = cutText(typeof value === "string" ? value : JSON.stringify(value), 100);
    }
    const cost = size + jsonBytes(short);
    if (cost > left) continue;
    left -= cost;
    // Assigning to `__proto__` would set the prototype instead of a key.
    Object.defineProperty(kept, key, { value: short, enumerable: true, configurable: true });
  }
  return { ...kept, _truncated: true };
}

function jsonBytes(value: unknown): number {
  return Buffer.byteLength(JSON.stringify(value));
}
