import type { AgentRegistry } from "../agent-registry.ts";
import type { Observers } from "../protocol/events.ts";
import type { SupervisorOptionsInput, Task } from "../protocol/tasks.ts";
import type { Priority } from "../protocol/types.ts";
import type { TxOption } from "../queue/claimed.ts";
import type { MessageQueueManager } from "../queue/manager.ts";
import type { Coordination } from "./coordination.ts";
import type { MessageHook } from "./inbox.ts";

/** What assignTask returns: the task as it is stored, and whether it was there before. */
export type AssignedTask = Task & { readonly duplicate: boolean };

export interface SupervisorOptions extends SupervisorOptionsInput {
  /** @internal What the supervisors of one outbox share; instead of `queue`, `registry` and `observers`. */
  coordination?: Coordination | undefined;
  /** The queue to send through. Default: one of its own on the same tables. */
  queue?: MessageQueueManager | undefined;
  /** The registry to find agents in. Default: one of its own on the same tables. */
  registry?: AgentRegistry | undefined;
  /** Who is told what happened, after it was committed. */
  observers?: Observers | undefined;
  /**
   * Handles messages to this supervisor other than TASK_RESPONSE, ERROR_REPORT, STATUS_UPDATE and HEARTBEAT.
   * Writes in `context.tx` commit together with the acknowledgement; throwing lets the message be tried again.
   * Default: the library's own news (of handoffs, change requests, maintenance) are acknowledged, all others
   * dead-lettered with the reason `no_handler`.
   */
  onMessage?: MessageHook | undefined;
}

export interface WaitOptions {
  /** Milliseconds. Default: the supervisor's `taskTimeoutMs`, 300,000. */
  timeoutMs?: number | undefined;
  /** Stops waiting: waitForTask then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface BroadcastOptions extends TxOption {
  /** Default NORMAL. */
  priority?: Priority | undefined;
}
