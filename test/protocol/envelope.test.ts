import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  AgentMessage,
  coordination,
  errorReport,
  heartbeat,
  MessagePriority,
  MessageType,
  statusUpdate,
  taskRequest,
  taskResponse,
  ValidationFailed,
} from "../../lib/index.ts";
import { type EncodedMessage, encode, headsOf, LastHead } from "../../lib/protocol/envelope.ts";
import { kindOf, normalType, priorityName, priorityValue } from "../../lib/protocol/types.ts";

const defaults = { fromAgent: "system", maxAttempts: 3, maxMessageBytes: 1_000_000 };

describe("message types", () => {
  it("aliases share one value", () => {
    expect(MessageType.TASK_REQUEST).toBe(MessageType.TASK_ASSIGNMENT);
    expect(MessageType.TASK_RESULT).toBe(MessageType.TASK_RESPONSE);
    expect(MessageType.ERROR_NOTIFICATION).toBe(MessageType.ERROR_REPORT);
    expect(MessageType.COORDINATION_REQUEST).toBe(MessageType.COORDINATION);
    expect(MessageType.STATE_UPDATE).not.toBe(MessageType.STATUS_UPDATE);
  });

  it("founding names are normalised in any case, and what was written is kept", () => {
    expect(normalType("task_request")).toEqual({
      messageType: "TASK_ASSIGNMENT",
      originalType: "task_request",
    });
    expect(normalType("TASK_ASSIGNMENT")).toEqual({
      messageType: "TASK_ASSIGNMENT",
      originalType: null,
    });
    expect(normalType("DRIVE_FILE_ADDED")).toEqual({
      messageType: "DRIVE_FILE_ADDED",
      originalType: null,
    });
    expect(normalType("toString").messageType).toBe("toString");
  });

  it("every known type has a kind, and the others are events", () => {
    expect(kindOf("TASK_ASSIGNMENT")).toBe("task");
    expect(kindOf("HEARTBEAT")).toBe("heartbeat");
    expect(kindOf("BATCH")).toBe("batch");
    expect(kindOf("DRIVE_FILE_ADDED")).toBe("event");
    expect(kindOf("constructor")).toBe("event");
  });
});

describe("priorities", () => {
  it("have one number in every founding spelling", () => {
    for (const name of ["LOW", "low", "Low"]) expect(priorityValue(name)).toBe(10);
    for (const name of ["NORMAL", "MEDIUM", "medium", "Normal"])
      expect(priorityValue(name)).toBe(20);
    for (const name of ["HIGH", "high"]) expect(priorityValue(name)).toBe(30);
    for (const name of ["CRITICAL", "urgent"]) expect(priorityValue(name)).toBe(40);
    expect(MessagePriority.MEDIUM).toBe(MessagePriority.NORMAL);
    expect(priorityValue(0)).toBe(0);
    expect(priorityValue("0")).toBeUndefined();
    expect(priorityName(20)).toBe("NORMAL");
    expect(priorityName(55)).toBe("55");
  });
});

describe("AgentMessage", () => {
  const id = fc.string({ minLength: 1, maxLength: 64, unit: fc.constantFrom(..."abcXYZ019_-.:é") });
  const json = fc.dictionary(
    fc.string({ unit: "grapheme" }).filter((key) => key !== "__proto__" && !key.includes("\0")),
    fc.jsonValue().filter((value) => !JSON.stringify(value).includes("\\u0000")),
  );

  it("goes through JSON and back unchanged", () => {
    fc.assert(
      fc.property(
        fc.record(
          {
            messageId: id,
            fromAgent: id,
            toAgent: id,
            messageType: id,
            content: json,
            priority: fc.integer({ min: 0, max: 100 }),
            timestamp: fc.integer({ min: 0, max: 4_000_000_000_000 }),
            correlationId: id,
            replyTo: id,
            contextId: id,
            taskId: id,
            headers: fc.dictionary(id, fc.oneof(fc.boolean(), fc.integer(), id)),
            expiresAt: fc.integer({ min: 0, max: 4_000_000_000_000 }),
          },
          { requiredKeys: ["messageId", "toAgent", "messageType", "content"] },
        ),
        (seed) => {
          const message = new AgentMessage(seed);
          const back = AgentMessage.fromJson(message.toJson());
          expect(back.toJson()).toBe(message.toJson());
          // Through JSON, which has no -0.
          expect({ ...back, content: 0 }).toEqual({ ...message, content: 0 });
        },
      ),
      { numRuns: 300 },
    );
  });

  it("writes snake_case with the seed's names", () => {
    const message = new AgentMessage({
      toAgent: "b",
      fromAgent: "a",
      messageType: "status_update",
      messageId: "m",
      content: { camelCase: "stays" },
      timestamp: 0,
    });
    expect(JSON.parse(message.toJson())).toEqual({
      message_id: "m",
      from_agent: "a",
      to_agent: "b",
      message_type: "STATUS_UPDATE",
      original_type: "status_update",
      kind: "event",
      content: { camelCase: "stays" },
      priority: "NORMAL",
      timestamp: "1970-01-01T00:00:00.000Z",
    });
  });

  it("refuses what is no message", () => {
    for (const text of [
      "",
      "[]",
      "null",
      '"x"',
      '{"message_id":"a b","to_agent":"b","message_type":"t","content":{}}',
      '{"to_agent":"b","message_type":"t","content":5}',
      '{"to_agent":"b","message_type":"t","content":{},"colour":"red"}',
      '{"to_agent":"b","message_type":"t","content":{},"timestamp":"yesterday"}',
      '{"to_agent":"b","message_type":"t","content":{},"priority":"soon"}',
    ]) {
      expect(() => AgentMessage.fromJson(text)).toThrow(ValidationFailed);
    }
  });
});

describe("heads", () => {
  it("are one for messages that share all but the content, and are not looked for twice", () => {
    const lastHead = new LastHead();
    const send = (fields: object) =>
      encode({ toAgent: "b", messageType: "t", content: {}, ...fields }, { ...defaults, lastHead });
    const first = send({ content: { n: 1 } });
    const second = send({ content: { n: 2 } });
    expect(second.head).toBe(first.head);
    expect(second.contentText).toBe('{"n":2}');
    expect(second.messageId).not.toBe(first.messageId);
    expect(headsOf([first, second, send({ taskId: "t1" }), send({})])).toHaveLength(3);
  });

  const field = <T>(...values: T[]) => fc.constantFrom<T | undefined>(undefined, ...values);
  const input = fc.record(
    {
      toAgent: fc.constantFrom<unknown>("b", "c", ["b"], ["b", "c"], "no id", undefined),
      messageType: fc.constantFrom("t", "task_request"),
      content: fc.constantFrom<unknown>({ a: 1 }, { a: 2 }, "no object", undefined),
      fromAgent: field("a", "system"),
      messageId: field("m1", "m2"),
      priority: field<unknown>("HIGH", 30, "no priority"),
      taskId: field("t1"),
      correlationId: field("c1"),
      delayMs: field(5),
      headers: field({ h: 1 }),
      unheardOf: fc.constantFrom(undefined, 1),
    },
    { requiredKeys: ["toAgent", "messageType", "content"] },
  );
  const cause = (messageId: string) => ({
    ...{ messageId, fromAgent: "x", contextId: null, hops: 1, trail: [] },
  });
  const causes = [undefined, cause("m8"), cause("m9")];

  it("are what they would be, whatever was sent before", () => {
    const result = (run: () => EncodedMessage) => {
      try {
        const { head, ownId, messageId, contentText } = run();
        return { head, ownId, messageId: ownId ? messageId : "new", contentText };
      } catch (error) {
        return String(error);
      }
    };
    // Most of the time what was sent before comes again, maybe with one field more or less.
    const sequence = fc.array(
      fc.record({
        input,
        again: fc.integer({ min: 0, max: 3 }),
        by: fc.integer({ min: 0, max: 2 }),
      }),
      { maxLength: 30 },
    );
    fc.assert(
      fc.property(sequence, (steps) => {
        const lastHead = new LastHead();
        let given: object = {};
        for (const step of steps) {
          given = step.again === 0 ? step.input : { ...given, ...pick(step.input, step.again) };
          const own = { ...defaults, cause: causes[step.by] };
          expect(result(() => encode(given, { ...own, lastHead }))).toEqual(
            result(() => encode(given, own)),
          );
        }
      }),
    );
  });

  /** One field of an input, or none. */
  function pick(from: object, n: number): object {
    const keys = Object.keys(from);
    const key = keys[n % (keys.length + 2)];
    return key === undefined ? {} : { [key]: (from as Record<string, unknown>)[key] };
  }
});

describe("builders", () => {
  const to = { toAgent: "b", fromAgent: "a" };

  it("make messages that can be sent, of the right type and kind", () => {
    const built = [
      taskRequest(to, { task_id: "t1", task_type: "api", required_capabilities: ["python"] }),
      taskResponse(to, { task_id: "t1", status: "completed", result: { ok: true } }),
      errorReport(to, { task_id: "t1", error_message: "no" }),
      statusUpdate(to, { status: "busy", availability: false }),
      heartbeat(to, {}),
      coordination(to, { instructions: "all hold" }),
    ].map((message) => encode(message, defaults));
    const heads = built.map(({ head }) => head);
    expect(heads.map(({ messageType, kind, taskId }) => [messageType, kind, taskId])).toEqual([
      ["TASK_ASSIGNMENT", "task", "t1"],
      ["TASK_RESPONSE", "response", "t1"],
      ["ERROR_REPORT", "notification", "t1"],
      ["STATUS_UPDATE", "event", undefined],
      ["HEARTBEAT", "heartbeat", undefined],
      ["COORDINATION", "command", undefined],
    ]);
    expect(JSON.parse(built[1]?.contentText ?? "")).toEqual({
      task_id: "t1",
      status: "completed",
      result: { ok: true },
      completion_percentage: 100,
    });
  });

  it("refuse wrong contents", () => {
    expect(() => taskResponse(to, { task_id: "t", status: "done" as never })).toThrow(/status/);
    expect(() => taskRequest(to, { task_id: "", task_type: "x" })).toThrow(/task_id/);
    expect(() => errorReport(to, { error_message: "a\0" })).toThrow(/NUL/);
  });
});
