import { setTimeout as sleep } from "node:timers/promises";
import { ValidationFailed } from "../errors.ts";
import { durationOf } from "./clock.ts";
import { connectionLost } from "./database.ts";
import type { FaultPoint } from "./statements.ts";

/** Where a fault strikes; `any`: every statement. */
export type FaultTarget = FaultPoint | "any";

const TARGETS: readonly FaultTarget[] = ["send", "claim", "settle", "any"];

function targetOf(value: FaultTarget): FaultTarget {
  if (TARGETS.includes(value)) return value;
  throw new ValidationFailed(`expected one of ${TARGETS.join(", ")}, got ${String(value)}`);
}

/** What goes wrong with the database, for every process of the test's world alike. */
export class Faults {
  readonly #failing: { readonly target: FaultTarget; times: number; readonly error: Error }[] = [];
  readonly #slow = new Map<FaultTarget, number>();
  readonly #duplicated: { readonly messageId: string | undefined }[] = [];
  #lost = false;

  /**
   * The next statements that send, claim or settle fail. A number: so many, as if the connection had broken, which
   * callers get as ServiceUnavailable and workers survive. An error: the next one, with this error.
   */
  failNext(target: FaultTarget, timesOrError: number | Error = 1): void {
    const [times, error] =
      timesOrError instanceof Error
        ? [1, timesOrError]
        : [durationOf(timesOrError, "failNext"), connectionLost("failNext")];
    this.#failing.push({ target: targetOf(target), times, error });
  }

  /** How many of the failures that `failNext` asked for have not struck yet. */
  get outstanding(): number {
    return this.#failing.reduce((sum, { times }) => sum + times, 0);
  }

  /** Every statement fails from now on, as if the server were gone, until `restoreDatabase`. */
  loseDatabase(): void {
    this.#lost = true;
  }

  restoreDatabase(): void {
    this.#lost = false;
  }

  /** Whether the database is lost now. */
  get lost(): boolean {
    return this.#lost;
  }

  /** Every such statement waits for so many milliseconds of real time first; 0: no longer. */
  slow(target: FaultTarget, realMs: number): void {
    this.#slow.set(targetOf(target), durationOf(realMs, "slow"));
  }

  /**
   * The next message that a handler gets, or this one, is delivered twice: what its first run acknowledges comes too
   * late, as if the lease had passed. What the run wrote in `context.tx` is undone; what it did outside is not.
   */
  duplicateDelivery(messageId?: string): void {
    this.#duplicated.push({ messageId });
  }

  /** @internal Whether this run is to lose its message. */
  duplicates(messageId: string): boolean {
    const found = this.#duplicated.findIndex(
      (one) => one.messageId === undefined || one.messageId === messageId,
    );
    if (found < 0) return false;
    this.#duplicated.splice(found, 1);
    return true;
  }

  /** @internal Called before each statement of a process. */
  async strike(point: FaultPoint | undefined): Promise<void> {
    if (this.#lost) throw connectionLost("the database is lost");
    const hits = (target: FaultTarget) => target === "any" || target === point;
    for (const failing of this.#failing) {
      if (!hits(failing.target) || failing.times === 0) continue;
      failing.times--;
      throw failing.error;
    }
    const waitMs = Math.max(0, ...[...this.#slow].map(([target, ms]) => (hits(target) ? ms : 0)));
    if (waitMs > 0) await sleep(waitMs);
  }
}
