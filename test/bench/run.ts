import type { Curve, Ratio } from "./measure.ts";

/** What a run was asked for. */
export interface Asked {
  readonly databases: readonly ("postgres" | "sqlite")[];
  readonly rounds: number;
  /** Less of everything: shows that it works, not how fast. */
  readonly quick: boolean;
  /** A PostgreSQL server to measure on, instead of one of the run's own. */
  readonly postgres: string | undefined;
  readonly machine: Readonly<Record<string, unknown>>;
  say(line: string): void;
}

/** What a bench found: whatever it likes, and in one shape what is compared and drawn. */
export interface Found {
  readonly ratios?: readonly Ratio[];
  readonly curves?: readonly Curve[];
}

export type Bench = (
  asked: Asked,
) => Promise<{ readonly result: object & Found; readonly text: string }>;
