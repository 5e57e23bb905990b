import type { ClaimedMessage, Settler } from "./claimed.ts";
import type { QueueCore } from "./core.ts";

export interface WorkContext {
  readonly signal: AbortSignal;
}
export type WorkHandler = (message: ClaimedMessage, context: WorkContext) => unknown;
export interface WorkOptions {
  readonly concurrency?: number;
}
export class Worker {
  readonly stopped: Promise<void> = Promise.resolve();
  constructor(_core: QueueCore, _settler: Settler, _agentId: string, _handler: WorkHandler, _options: WorkOptions) {}
  async stop(): Promise<void> {}
}
