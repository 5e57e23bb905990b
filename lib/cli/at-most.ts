import type { Terminal } from "./terminal.ts";

/** The option that says how many, 1 to 1,000, with its default and what it counts. */
export function atMost(most: number, help: string) {
  const takes = { type: "number", short: "n", value: "N", min: 1, max: 1_000 } as const;
  return { ...takes, default: most, help };
}

/** The option that says where a list goes on. */
export const after = {
  type: "number",
  value: "SEQUENCE",
  default: 0,
  help: "Continue after this sequence number",
} as const;

/** Says how to go on with a list that is as long as was asked for. */
export function sayMore(
  terminal: Terminal,
  listed: readonly { readonly seq: number }[],
  limit: number,
): void {
  if (listed.length === limit) terminal.say(`There may be more: --after ${listed.at(-1)?.seq}`);
}
