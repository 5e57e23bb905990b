/** What the command's exit code says. Scripts rely on it: see the README. */
export const EXIT = {
  OK: 0,
  ERROR: 1,
  /** The command line was wrong; nothing was done. */
  USAGE: 2,
  /** `health` and `doctor` found a problem. */
  UNHEALTHY: 3,
  NOT_FOUND: 4,
  /** Ended by Ctrl-C or SIGTERM, as a shell reports it. */
  INTERRUPTED: 130,
  TERMINATED: 143,
} as const;

/** The code for a command that a signal ended; the abort's reason names the signal. */
export function exitOfSignal(signal: AbortSignal): number {
  return signal.reason === "SIGTERM" ? EXIT.TERMINATED : EXIT.INTERRUPTED;
}

/** What a command has to say when it cannot do what it was asked. */
export class CommandError extends Error {
  override readonly name: string = "CommandError";
  readonly code: string = "ERROR";
  readonly exitCode: number = EXIT.ERROR;
  readonly recoverySuggestion: string | undefined;
  constructor(message: string, recoverySuggestion?: string) {
    super(message);
    this.recoverySuggestion = recoverySuggestion;
  }
}

/** The command line was wrong. */
export class UsageError extends CommandError {
  override readonly name = "UsageError";
  override readonly code = "USAGE";
  override readonly exitCode = EXIT.USAGE;
}

/** What was asked for is not there. */
export class NotFound extends CommandError {
  override readonly name = "NotFound";
  override readonly code = "NOT_FOUND";
  override readonly exitCode = EXIT.NOT_FOUND;
}
