import { CommandError, EXIT } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { clean } from "./text.ts";

/** What errors of the library look like from here, without loading it only to recognise them. */
interface Known extends Error {
  readonly code?: unknown;
  readonly recoverySuggestion?: unknown;
  readonly toJSON?: () => unknown;
}

const CODES: Readonly<Record<string, number>> = {
  VALIDATION_FAILED: EXIT.USAGE,
  PAYLOAD_TOO_LARGE: EXIT.USAGE,
  INVALID_CONFIGURATION: EXIT.USAGE,
  UNKNOWN_RECIPIENT: EXIT.NOT_FOUND,
  UNKNOWN_MESSAGE: EXIT.NOT_FOUND,
  UNKNOWN_TASK: EXIT.NOT_FOUND,
  UNKNOWN_INPUT: EXIT.NOT_FOUND,
};

/** What a driver says, by its code, where the library has only "see the cause" to offer. */
const DRIVER_REMEDIES: Readonly<Record<string, string>> = {
  "3D000": "Create that database, or correct its name in the database URL.",
};

function remedyOf(error: Known): string | undefined {
  const cause = error.cause as { readonly code?: unknown } | undefined;
  const known = typeof cause?.code === "string" ? DRIVER_REMEDIES[cause.code] : undefined;
  if (known !== undefined) return known;
  return typeof error.recoverySuggestion === "string" ? error.recoverySuggestion : undefined;
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by: ${stackOf(error.cause)}` : "";
  return `${error.stack ?? error.message}${cause}`;
}

/** Says what went wrong and what to do about it; returns the exit code. Stacks only where they were asked for. */
export function reportFailure(terminal: Terminal, thrown: unknown, verbose: boolean): number {
  const error: Known = thrown instanceof Error ? thrown : new Error(String(thrown));
  const fix = remedyOf(error);
  if (terminal.json) {
    const json =
      typeof error.toJSON === "function"
        ? (error.toJSON() as object)
        : {
            name: error.name,
            code: typeof error.code === "string" ? error.code : "ERROR",
            message: error.message,
            ...(fix === undefined ? {} : { recovery_suggestion: fix }),
          };
    terminal.error(
      JSON.stringify({ error: { ...json, ...(verbose ? { stack: stackOf(error) } : {}) } }),
    );
  } else {
    terminal.error(`${terminal.errorStyle(["bold", "red"], "error:")} ${clean(error.message)}`);
    if (fix !== undefined) terminal.error(`  ${terminal.errorStyle("bold", "fix:")} ${fix}`);
    if (verbose) terminal.error(terminal.errorStyle("dim", stackOf(error)));
    else if (fix === undefined && !(error instanceof CommandError)) {
      terminal.error("  --verbose shows where it comes from.");
    }
  }
  if (error instanceof CommandError) return error.exitCode;
  return (typeof error.code === "string" ? CODES[error.code] : undefined) ?? EXIT.ERROR;
}
