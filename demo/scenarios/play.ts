/** Plays a scenario for people: on a database of its own, told line by line. */
import { randomBytes } from "node:crypto";
import { styleText } from "node:util";
import { openOutbox } from "../../lib/index.ts";
import { type DemoOptions, UsageError } from "../options.ts";
import { removeTables } from "../place.ts";
import { printable } from "../words.ts";
import { SCENARIOS } from "./index.ts";

/** What `--list` prints. */
export function scenarioList(): string {
  const width = Math.max(...SCENARIOS.map(({ name }) => name.length));
  const lines = SCENARIOS.map(({ name, title }) => `  ${name.padEnd(width)}  ${title}`);
  return `${lines.join("\n")}\n\nPlay one: npm run demo -- --scenario ${SCENARIOS[0]?.name}\n`;
}

/** @throws UsageError, AgentCommunicationError; returns the exit code */
export async function playScenario(
  name: string,
  { database, keep, json }: Pick<DemoOptions, "database" | "keep" | "json">,
): Promise<number> {
  const scenario = SCENARIOS.find((one) => one.name === name);
  if (scenario === undefined) {
    const names = SCENARIOS.map((one) => one.name).join(", ");
    throw new UsageError(`--scenario takes ${names}, got "${printable(name)}"`);
  }
  // A database that others use gets tables that cannot be theirs.
  const prefix = database === undefined ? "outbox_" : `demo_${randomBytes(4).toString("hex")}_`;
  const outbox = await openOutbox({
    database: database ?? "sqlite::memory:",
    prefix,
    migrate: true,
    fileLogging: false,
  });
  // The story is for people; where the result is data, it goes where errors go.
  const out = json ? process.stderr : process.stdout;
  const color = out.isTTY === true && !process.env.NO_COLOR;
  const style = (format: "bold" | "dim" | "cyan", text: string) =>
    color ? styleText(format, text) : text;
  out.write(`${style("bold", scenario.title)}\n\n`);
  const begun = performance.now();
  try {
    const result = await scenario.play({
      outbox,
      say: (agentId, words) => {
        const at = `${((performance.now() - begun) / 1_000).toFixed(2)} s`.padStart(8);
        out.write(
          `${style("dim", at)}  ${style("cyan", printable(agentId).padEnd(20))}  ${printable(words)}\n`,
        );
      },
    });
    if (json) process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
    return 0;
  } finally {
    try {
      if (database !== undefined && !keep) await removeTables(outbox, prefix);
    } finally {
      await outbox.close();
    }
  }
}
