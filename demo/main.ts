/**
 * The demo: `npm run demo [folder]`, or `agent-outbox demo`. Real processes, a real database, real work, and one
 * process that is really killed.
 */
import { realpathSync } from "node:fs";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { AgentCommunicationError } from "../lib/index.ts";
import { runDemo } from "./demo.ts";
import { HELP, parseOptions, UsageError } from "./options.ts";
import { DemoError } from "./place.ts";
import { renderReport } from "./render.ts";
import { playScenario, scenarioList } from "./scenarios/play.ts";

const WIDTH_OF_A_PIPE = 160;
/** How long what is left open may keep a demo alive that was interrupted, or has failed. */
const LINGER_MS = 1_000;

/** Runs the demo and returns the exit code: 0 done, 1 failed, 2 wrong arguments, 130 interrupted. */
export async function main(args: string[]): Promise<number> {
  try {
    const options = parseOptions(args);
    if (options === "help") {
      process.stdout.write(HELP);
      return 0;
    }
    if (options === "list") {
      process.stdout.write(scenarioList());
      return 0;
    }
    if (options.scenario !== undefined) {
      return await playScenario(options.scenario, options);
    }
    const outcome = await runDemo(options);
    if ("stoppedBy" in outcome) {
      // A terminal shows "^C" at the start of this line.
      const overwrite = process.stderr.isTTY ? "\r" : "";
      process.stderr.write(`${overwrite}Stopped. ${outcome.remark}\n`);
      return 128 + constants.signals[outcome.stoppedBy];
    }
    const { report } = outcome;
    process.stdout.write(
      options.json
        ? `${JSON.stringify(report, null, 2)}\n`
        : renderReport(report, {
            color: process.stdout.isTTY === true && !process.env.NO_COLOR,
            width: process.stdout.columns ?? WIDTH_OF_A_PIPE,
          }),
    );
    return report.tasks.failed.length === 0 ? 0 : 1;
  } catch (error) {
    process.stderr.write(`agent-outbox demo: ${inOneLine(error)}\n`);
    if (error instanceof UsageError) process.stderr.write("Try: npm run demo -- --help\n");
    return error instanceof UsageError ? 2 : 1;
  }
}

function inOneLine(error: unknown): string {
  if (error instanceof UsageError || error instanceof DemoError) return error.message;
  const { message } = error as Error;
  const text =
    error instanceof AgentCommunicationError ? `${message}. ${error.recoverySuggestion}` : message;
  return text.replace(/\s*\n\s*/g, " ");
}

/** False when the command line imported it. */
function isProgram(): boolean {
  const [, program] = process.argv;
  try {
    return program !== undefined && realpathSync(program) === fileURLToPath(import.meta.url);
  } catch {
    return false;
  }
}

if (isProgram()) {
  // `npm run demo | head`: the reader has what it wanted, and that is no error.
  process.stdout.on("error", () => {});
  process.exitCode = await main(process.argv.slice(2));
  // People have been told that it is over: a connection that never answers must not hold it open.
  if (process.exitCode !== 0) setTimeout(() => process.exit(), LINGER_MS).unref();
}
