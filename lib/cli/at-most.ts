/** The option that says how many, 1 to 1,000, with its default and what it counts. */
export function atMost(most: number, help: string) {
  const takes = { type: "number", short: "n", value: "N", min: 1, max: 1_000 } as const;
  return { ...takes, default: most, help };
}
