import type { Readable } from "node:stream";
import type { EnvironmentConfig, Outbox } from "../index.ts";
import type { Terminal } from "./terminal.ts";

export interface OptionSpec {
  readonly type: "flag" | "text" | "number";
  readonly help: string;
  readonly short?: string;
  /** What the help calls the value, e.g. `MS`. */
  readonly value?: string;
  readonly default?: string | number;
  readonly choices?: readonly string[];
  /** May be given several times: `list` also once with commas, `repeat` not, because values may hold commas. */
  readonly multiple?: "list" | "repeat";
  readonly min?: number;
  readonly max?: number;
}

export interface ArgumentSpec {
  readonly help: string;
  readonly optional?: true;
  /** Takes all that follow; the last argument only. */
  readonly many?: true;
}

export type Options = Readonly<Record<string, OptionSpec>>;
export type Arguments = Readonly<Record<string, ArgumentSpec>>;

type Single<S extends OptionSpec> = S extends { readonly type: "number" }
  ? number
  : S extends { readonly choices: readonly (infer Choice)[] }
    ? Choice
    : string;

type OptionValue<S extends OptionSpec> = S extends { readonly type: "flag" }
  ? boolean
  : S extends { readonly multiple: string }
    ? readonly Single<S>[]
    : Single<S> | (S extends { readonly default: string | number } ? never : undefined);

type ArgumentValue<S extends ArgumentSpec> = S extends { readonly many: true }
  ? readonly string[]
  : S extends { readonly optional: true }
    ? string | undefined
    : string;

export type OptionValues<O extends Options> = { readonly [K in keyof O]: OptionValue<O[K]> };
export type ArgumentValues<A extends Arguments> = { readonly [K in keyof A]: ArgumentValue<A[K]> };

/** What a command gets to work with. */
export interface Context<O extends Options = Options, A extends Arguments = Arguments> {
  readonly options: OptionValues<O>;
  readonly args: ArgumentValues<A>;
  readonly terminal: Terminal;
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly env: NodeJS.ProcessEnv;
  /** Aborts at Ctrl-C; the command is left where it is then, unless it said that it ends by itself. */
  readonly signal: AbortSignal;
  /** From here on the command ends by itself when the signal aborts. */
  endsByItself(): void;
  /** The environment with the global options over it. */
  config(): Promise<EnvironmentConfig>;
  /** The open outbox; closed when the command ends. */
  outbox(): Promise<Outbox>;
  /** The database alone, whether it is migrated or not; closed when the command ends. */
  database(): Promise<{
    readonly knex: Outbox["knex"];
    readonly dialect: Outbox["dialect"];
    readonly prefix: string;
  }>;
}

export interface Command {
  /** As it is typed, e.g. `dlq ls`. */
  readonly name: string;
  readonly summary: string;
  readonly arguments: Arguments;
  readonly options: Options;
  /** More than the summary says; paragraphs. */
  readonly details?: readonly string[];
  /** Command lines without the program's name, each with what it is for. */
  readonly examples: readonly (readonly [line: string, purpose: string])[];
  /** Takes the arguments as they are: another program parses them. */
  readonly passThrough?: boolean;
  /** Returns the exit code; nothing means 0. */
  run(context: Context): Promise<number | undefined>;
}

/** A command whose `run` sees its own arguments and options with their types. */
export function defineCommand<const O extends Options, const A extends Arguments>(
  command: Omit<Command, "arguments" | "options" | "run"> & {
    readonly arguments?: A;
    readonly options?: O;
    run(context: Context<O, A>): Promise<number | undefined>;
  },
): Command {
  return {
    ...command,
    arguments: command.arguments ?? {},
    options: command.options ?? {},
    run: (context) => command.run(context as unknown as Context<O, A>),
  };
}
