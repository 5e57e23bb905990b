import { z } from "zod";
import type { OpenOptions, Outbox } from "../outbox.ts";
import { durationMs, positiveInt } from "../protocol/validate.ts";
import type { InstantInput } from "./clock.ts";

export interface TestOutboxOptions {
  /** Where the virtual clock stands at first. Default: 1 January 2026, 00:00 UTC. */
  readonly now?: InstantInput | undefined;
  /**
   * How long a handler may take, in milliseconds of real time, before the world goes on without it. Default 2,000.
   */
  readonly patienceMs?: number | undefined;
  /** How often handlers may be called while the clock stands: more is a circle without end. Default 5,000. */
  readonly mostCalls?: number | undefined;
  /** Options of openOutbox for every process, such as retry policies or gates. Default: none. */
  readonly outbox?:
    | Omit<OpenOptions, "database" | "migrate" | "prefix" | "fileLogging">
    | undefined;
}

/** The clock of a test's database, and of all who live on it. It moves only when it is told to. */
export interface TestClock {
  /** Milliseconds since the epoch. */
  readonly now: number;
  /** Lets so much time pass, and everything happen that falls due in it, in its order. */
  advance(ms: number): Promise<void>;
  /** As `advance`, to an instant; one that has passed changes nothing. */
  advanceTo(instant: InstantInput): Promise<void>;
  /** For handlers: until so much time has passed by this clock. Rejects with the signal's reason when it aborts. */
  sleep(ms: number, options?: { signal?: AbortSignal | undefined }): Promise<void>;
}

/** An agent that lives in a test. */
export interface TestAgent {
  readonly agentId: string;
  /** The outbox of its process: what the agent itself sends, offers or locks goes through it. */
  readonly outbox: Outbox;
}

export const PREFIX = "outbox_";
const START = Date.UTC(2026, 0, 1);
export const optionsSchema = z.strictObject({
  now: z.union([z.number(), z.string(), z.date()], "expected an instant").default(START),
  patienceMs: durationMs(1).default(2_000),
  mostCalls: positiveInt(1_000_000).default(5_000),
  // Checked by openOutbox.
  outbox: z.custom<NonNullable<TestOutboxOptions["outbox"]>>().default({}),
});
