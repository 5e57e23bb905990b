import { expect } from "vitest";
import type { Worker } from "../../lib/index.ts";

/** Something that handlers wait at until the test lets them pass. */
export function gate(): { readonly passed: Promise<void>; pass(): void } {
  let pass = () => {};
  const passed = new Promise<void>((resolve) => {
    pass = resolve;
  });
  return { passed, pass };
}

/** Stops a worker that has nothing to wait for. */
export async function stopped(worker: Worker): Promise<void> {
  await worker.stop();
  expect(worker.stats).toMatchObject({ active: 0, waiting: 0 });
}

/** The content of a message, for tests that know what they sent. */
export function content(message: { readonly content: unknown }): Record<string, unknown> {
  return message.content as Record<string, unknown>;
}

/** Rejects with the signal's reason once it aborts; what a well-behaved handler waits for beside its work. */
export function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason as Error);
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
}
