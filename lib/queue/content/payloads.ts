import { AgentCommunicationError, errorRecord } from "../../errors.ts";
import { type ClaimCheckStore, messageIdOfKey } from "../../protocol/claim-check.ts";
import type { Observers } from "../../protocol/events.ts";
import type { QueueOptions } from "../../protocol/options.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { Db } from "../../store/dialect.ts";
import { type PayloadStore, refOf } from "../../store/payloads.ts";
import type { Row } from "../../store/sql.ts";
import { settledWithin } from "../worker/pace.ts";
import { eachOf } from "./content.ts";

/** How often upkeep sweeps, all processes together. */
const SWEEP_EVERY_MS = 3_600_000;
/** What is younger may belong to a transaction that is still open. */
const ORPHAN_AGE_MS = 86_400_000;
/** Keys that one statement looks for. */
const STEP = 500;
const AT_ONCE = 8;
const LONGEST_CLOSE_MS = 5_000;

/** What a sweep of the claim-check store found and did. */
export interface SweepReport {
  dryRun: boolean;
  /** Contents of this outbox in the store. */
  seen: number;
  /** Those of them that are old enough and that no message refers to. */
  orphaned: number;
  deleted: number;
  /** True when the signal, or closing the queue, ended it before all were looked at. */
  stopped: boolean;
}

interface PayloadsParts {
  readonly options: QueueOptions;
  readonly store: PayloadStore;
  readonly observers: Observers;
  readonly now: () => Promise<number>;
}

/** Takes contents out of the claim-check store again, when no message needs them any more. */
export class Payloads {
  readonly #parts: PayloadsParts;
  readonly #claimCheck: ClaimCheckStore | undefined;
  readonly #running = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  /** Processes that start together do not ask together. */
  #askAt = performance.now() + Math.random() * SWEEP_EVERY_MS;

  constructor(parts: PayloadsParts) {
    this.#parts = parts;
    this.#claimCheck = parts.options.claimCheck?.store;
  }

  /** Waits for what is under way, but not for a store that does not answer: a later sweep does the rest. */
  async close(): Promise<void> {
    this.#closing.abort();
    await settledWithin(LONGEST_CLOSE_MS, Promise.all(this.#running));
  }

  /** Of rows that ended for good: see `release`. */
  releaseRows(db: Db, rows: readonly Row[]): void {
    if (this.#claimCheck === undefined) return;
    const refs = rows.map((row) =>
      row.content_encoding === "ref" ? row.content : (row.content_ref ?? null),
    );
    this.release(
      db,
      refs.flatMap((ref) => refOf(ref)),
    );
  }

  /**
   * Deletes contents whose row is gone, after the commit, in the background, unless another recipient's row needs
   * them. What fails, or is cut off by the end of the process, is left to the sweep.
   */
  release(db: Db, keys: readonly string[]): void {
    const store = this.#claimCheck;
    if (store === undefined || keys.length === 0) return;
    afterCommit(db, () => {
      void this.#track(async () => {
        for (let n = 0; n < keys.length; n += STEP) {
          await this.#deleteUnneeded(store, keys.slice(n, n + STEP));
        }
      });
    });
  }

  /** Deletes contents that no row ever referred to. */
  discard(keys: readonly string[]): void {
    const store = this.#claimCheck;
    if (store === undefined || keys.length === 0) return;
    void this.#track(() => eachOf(keys, AT_ONCE, (key) => store.delete(key)));
  }

  /**
   * Deletes contents that no message, live, dead or archived, refers to and that were stored longer ago than
   * `olderThanMs`: those of transactions that were rolled back and of processes that died. Bounded steps.
   *
   * @throws AgentCommunicationError INVALID_CONFIGURATION without a store that can list; what the store throws
   */
  async sweep(
    given: {
      olderThanMs?: number | undefined;
      dryRun?: boolean | undefined;
      signal?: AbortSignal | undefined;
    } = {},
  ): Promise<SweepReport> {
    const { olderThanMs = ORPHAN_AGE_MS, dryRun = false, signal } = given;
    const store = this.#claimCheck;
    if (store?.list === undefined) {
      throw new AgentCommunicationError(
        "INVALID_CONFIGURATION",
        store === undefined
          ? "this queue has no claim-check store to sweep"
          : "this claim-check store cannot list its keys",
        {
          recoverySuggestion:
            "Set claimCheck: { store } in the queue's options, or OUTBOX_CLAIM_CHECK_DIR; a store that cannot list needs an expiry rule of its own.",
        },
      );
    }
    const folder = `${await this.#parts.store.outbox()}/`;
    const before = (await this.#parts.now()) - olderThanMs;
    const report = { dryRun, seen: 0, orphaned: 0, deleted: 0, stopped: false };
    let old: string[] = [];
    const step = async () => {
      const keys = old;
      old = [];
      const orphans = await this.#unneeded(keys);
      report.orphaned += orphans.length;
      if (dryRun) return;
      await eachOf(orphans, AT_ONCE, (key) => store.delete(key));
      report.deleted += orphans.length;
    };
    for await (const { key, storedAt } of store.list(folder)) {
      if (signal?.aborted || this.#closing.signal.aborted) {
        report.stopped = true;
        return report;
      }
      if (!key.startsWith(folder) || messageIdOfKey(key) === undefined) continue;
      report.seen++;
      if (storedAt >= before) continue;
      old.push(key);
      if (old.length >= STEP) await step();
    }
    if (old.length > 0) await step();
    return report;
  }

  /** Sweeps if it is time and no other process has done it. Not waited for: upkeep has more to do. */
  sweepInTurn(): void {
    if (this.#claimCheck?.list === undefined || performance.now() < this.#askAt) return;
    this.#askAt = performance.now() + SWEEP_EVERY_MS;
    void this.#track(async () => {
      if (await this.#parts.store.takeTurn(SWEEP_EVERY_MS)) await this.sweep();
    });
  }

  async #deleteUnneeded(store: ClaimCheckStore, keys: readonly string[]): Promise<void> {
    await eachOf(await this.#unneeded(keys), AT_ONCE, (key) => store.delete(key));
  }

  async #unneeded(keys: readonly string[]): Promise<string[]> {
    const ours = [...new Set(keys)].filter((key) => messageIdOfKey(key) !== undefined);
    const needed = await this.#parts.store.needed(ours);
    return ours.filter((key) => !needed.has(key));
  }

  async #track(run: () => Promise<unknown>): Promise<void> {
    const running = run().catch((error: unknown) => {
      const { code, message } = errorRecord(error);
      this.#parts.observers.emit([
        {
          type: "error",
          agentId: this.#parts.options.agentId,
          errorType: code,
          errorMessage: message,
          at: Date.now(),
          data: { during: "payload clean-up" },
        },
      ]);
    });
    this.#running.add(running);
    await running;
    this.#running.delete(running);
  }
}
