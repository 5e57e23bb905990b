import { describe, expect, it } from "vitest";
import { messageSchema, plainFields } from "../../lib/protocol/message-input.ts";

const PLAIN = { toAgent: "a", messageType: "TASK_REQUEST", content: { n: 1 } };

/** What may stand in a field: right for some fields, wrong for others. */
const VALUES: readonly unknown[] = [
  ...[undefined, null, "", "a", "a b", "é", "a\u200bb", "x".repeat(128), "x".repeat(129)],
  ...[0, 20, 101, 1.5, "HIGH", "high", "toString", [], ["a"], ["a", "a"], {}, new Date(0), true],
];
const FIELDS = [...Object.keys(messageSchema.shape), "unknown", "__proto__", "constructor"];

describe("fields of a message that says little more than where it goes", () => {
  it("are what the schema makes of them, or left to it", () => {
    let quick = 0;
    for (const field of FIELDS) {
      for (const value of VALUES) {
        const given = Object.defineProperty({ ...PLAIN }, field, {
          ...{ value, enumerable: true, configurable: true, writable: true },
        });
        const fields = plainFields(given);
        if (fields === undefined) continue;
        quick += 1;
        expect({ field, value, fields }).toEqual({
          field,
          value,
          fields: messageSchema.parse(given),
        });
      }
    }
    expect(quick).toBeGreaterThan(FIELDS.length);
  });

  it("are told quickly for plain messages, with ids and a priority", () => {
    const given = { ...PLAIN, fromAgent: "b", correlationId: "c", contextId: undefined };
    expect(plainFields(given)).toEqual(messageSchema.parse(given));
    expect(plainFields({ ...given, priority: "urgent" })).toMatchObject({ priority: 40 });
    expect(plainFields(Object.assign(Object.create(null), given))).toBeDefined();
  });

  it("are left to the schema where anything else is said, or wrong", () => {
    const others: readonly object[] = [
      ...[
        { toAgent: ["a", "b"] },
        { delayMs: 1 },
        { subject: "s" },
        { headers: {} },
        { unknown: 1 },
      ],
      ...[{ toAgent: undefined }, { messageType: "" }, { fromAgent: "a b" }, { priority: "NONE" }],
    ];
    for (const other of others) expect(plainFields({ ...PLAIN, ...other })).toBeUndefined();
    expect(plainFields(new (class Message {})())).toBeUndefined();
  });
});
