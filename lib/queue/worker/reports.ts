import { errorRecord } from "../../errors.ts";
import type { ClaimedMessage } from "../claimed.ts";
import type { QueueCore } from "../core.ts";

/** What a worker was doing when an error met it. `load`: a large content; `handle` is the handler's own failure. */
export type WorkActivity = "claim" | "load" | "handle" | "extend" | "settle";

export interface WorkErrorContext {
  readonly agentId: string;
  readonly workerId: string;
  readonly during: WorkActivity;
  /** The message whose handler failed. */
  readonly message?: ClaimedMessage | undefined;
}

export type WorkErrorListener = (error: unknown, context: WorkErrorContext) => unknown;

/** Tells of errors: to the application that asked for it, and to the observers of the outbox. */
export class Reports {
  readonly #core: QueueCore;
  readonly #agentId: string;
  readonly #workerId: string;
  readonly #listener: WorkErrorListener | undefined;
  readonly #warned = new Set<string>();

  constructor(
    core: QueueCore,
    agentId: string,
    workerId: string,
    listener: WorkErrorListener | undefined,
  ) {
    this.#core = core;
    this.#agentId = agentId;
    this.#workerId = workerId;
    this.#listener = listener;
  }

  /** Never throws: who tells of an error has work to finish. */
  tell(error: unknown, during: WorkActivity, message?: ClaimedMessage): void {
    try {
      this.#tell(error, during, message);
    } catch {
      // An observer's fault, or a process that treats warnings as errors.
    }
  }

  #tell(error: unknown, during: WorkActivity, message: ClaimedMessage | undefined): void {
    const { code, message: text } = errorRecord(error);
    this.#core.observers.emit([
      {
        type: "error",
        agentId: this.#agentId,
        errorType: code,
        errorMessage: text,
        at: Date.now(),
        data: {
          during,
          worker_id: this.#workerId,
          ...(message === undefined ? {} : { attempt: message.attempt }),
        },
        messageId: message?.messageId,
        taskId: message?.taskId ?? undefined,
        correlationId: message?.correlationId ?? undefined,
      },
    ]);
    if (this.#listener === undefined) {
      // What a handler throws is kept beside its message; what the worker meets is seen nowhere else.
      if (during !== "handle" && !this.#warned.has(code)) {
        this.#warned.add(code);
        process.emitWarning(`a worker of "${this.#agentId}" could not ${during}: ${text}`, {
          type: "AgentOutboxWarning",
          code,
        });
      }
      return;
    }
    const context = { agentId: this.#agentId, workerId: this.#workerId, during, message };
    // A listener must not disturb the work it is told about, whether it throws or rejects.
    void (async () => this.#listener?.(error, context))().catch(() => undefined);
  }
}
