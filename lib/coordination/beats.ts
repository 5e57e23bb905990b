import { setTimeout as sleep } from "node:timers/promises";
import type { AgentRegistry } from "../agent-registry.ts";
import { UnknownRecipient } from "../errors.ts";
import { BeatMetrics, type MetricsHook } from "./beat-metrics.ts";

interface Beating {
  readonly agentId: string;
  readonly registry: AgentRegistry;
  readonly intervalMs: number;
  readonly metrics: MetricsHook | undefined;
  /** For an agent that somebody removed from the registry. */
  register(): Promise<void>;
  /** What is to be looked after with every beat. */
  beaten(): Promise<void>;
  tell(error: unknown): void;
}

const SHORTEST_RETRY_MS = 250;

/** The heartbeats of one agent. */
export class Beats {
  readonly #beating: Beating;
  readonly #metrics: BeatMetrics;

  constructor(beating: Beating) {
    this.#beating = beating;
    const { metrics, intervalMs } = beating;
    this.#metrics = new BeatMetrics(metrics, intervalMs, (error) => beating.tell(error));
  }

  /** Beats until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { intervalMs, register, beaten, tell } = this.#beating;
    let failures = 0;
    while (!signal.aborted) {
      // Soon again after a failure: three silent intervals, and the tasks go to someone else.
      const pause =
        failures === 0 ? intervalMs : Math.min(SHORTEST_RETRY_MS * 2 ** (failures - 1), intervalMs);
      await sleep(pause, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      try {
        await this.#once();
        await beaten();
        failures = 0;
      } catch (error) {
        failures++;
        if (error instanceof UnknownRecipient) await register().catch(() => undefined);
        else tell(error);
      }
    }
  }

  async #once(): Promise<void> {
    const { registry, agentId } = this.#beating;
    const metrics = await this.#metrics.read();
    if (metrics !== undefined) {
      try {
        await registry.updateHeartbeat(agentId, { metrics });
        this.#metrics.taken();
        return;
      } catch (error) {
        const { retryable } = error as { retryable?: unknown };
        if (error instanceof UnknownRecipient || retryable === true) throw error;
        // It is the metrics that cannot be stored: silence would cost the agent its tasks.
        this.#metrics.failed(error);
      }
    }
    await registry.updateHeartbeat(agentId);
  }
}
