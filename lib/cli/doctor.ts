import { defineCommand } from "./command.ts";
import { library, refuseMissingFile } from "./context.ts";
import { EXIT } from "./exit-codes.ts";
import { clean, plural, wire } from "./text.ts";

const MARKS = {
  ok: ["✓", "green"],
  warning: ["!", "yellow"],
  problem: ["✗", "red"],
  unknown: ["?", "dim"],
} as const;

const doctor = defineCommand({
  name: "doctor",
  summary: "Examine the installation; exit 3 when something is wrong",
  details: [
    "Looks at versions, migrations, indexes, settings of the database that cost messages or speed, and at what is stuck. Changes nothing.",
  ],
  examples: [
    ["doctor", "what is well, what is not, and what to do"],
    [`doctor --json | jq '.checks[] | select(.level != "ok")'`, "for a monitor"],
  ],
  async run({ terminal, config, database }) {
    const { doctor: examine } = await library();
    await refuseMissingFile((await config()).database);
    const { knex, prefix } = await database();
    const { level, dialect, checks } = await examine(knex, { prefix });
    terminal.document(wire({ level, dialect, checks }));
    const width = Math.max(...checks.map(({ check }) => check.length));
    for (const { check, level: found, found: text, remedy } of checks) {
      const [mark, style] = MARKS[found];
      const name = check.replaceAll("_", " ").padEnd(width);
      terminal.line(`${terminal.style(style, mark)} ${name}  ${clean(text)}`);
      if (remedy !== null)
        terminal.line(`  ${" ".repeat(width)}  ${terminal.style("bold", "fix:")} ${remedy}`);
    }
    const count = (wanted: string) => checks.filter((check) => check.level === wanted).length;
    const [problems, warnings] = [count("problem"), count("warning")];
    terminal.say(
      problems + warnings === 0
        ? "\nAll is well."
        : `\n${plural(problems, "problem")}, ${plural(warnings, "warning")}.`,
    );
    return level === "problem" ? EXIT.UNHEALTHY : EXIT.OK;
  },
});

export const doctorCommands = [doctor];
