import { expect, it } from "vitest";
import { check } from "./checker.ts";
import { PLANTED_FLOW } from "./planted-flow.ts";
import { PLANTED_MESSAGES } from "./planted-messages.ts";
import { Story } from "./story.ts";
import { RULES } from "./types.ts";

const PLANTED = [...PLANTED_MESSAGES, ...PLANTED_FLOW];

it.each(PLANTED)("the checker knows $rule: $title", ({ rule, holds, breaks }) => {
  expect(check(holds(new Story()).history())).toEqual([]);
  const rules = new Set(check(breaks(new Story()).history()).map((violation) => violation.rule));
  // A settle that should have failed may break a neighbouring guarantee as well.
  expect(rules).toContain(rule);
});

it("each rule has a planted violation", () => {
  expect(new Set(PLANTED.map(({ rule }) => rule))).toEqual(new Set(RULES));
});
