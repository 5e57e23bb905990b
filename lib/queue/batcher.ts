import { AgentCommunicationError, type ErrorCode } from "../errors.ts";
import type { AgentMessage } from "../protocol/agent-message.ts";
import type { EncodedMessage } from "../protocol/envelope.ts";
import type { BatcherSettings, Flow } from "../protocol/flow.ts";
import type { MessageInput } from "../protocol/message-input.ts";
import type { Sent } from "../store/messages.ts";

/** After these the batch may be stored for all we know, or the next try would fail alike: nothing is sent again. */
const FOR_ALL: readonly ErrorCode[] = [
  "SERVICE_UNAVAILABLE",
  "STORAGE_FULL",
  "CLOSED",
  "NOT_MIGRATED",
  "PERMISSION_DENIED",
];

interface BatcherParts {
  encode(message: MessageInput | AgentMessage): EncodedMessage;
  send(messages: readonly EncodedMessage[], flow: Flow): Promise<Sent[]>;
  readonly flow: Flow;
}

/** One send that waits for its batch. */
interface Member {
  readonly message: EncodedMessage;
  resolve(sent: Sent): void;
  reject(error: unknown): void;
}

/**
 * Collects single sends into one statement and one commit. One batch is under way at a time, so the order of the
 * calls is the order of the messages; while it is, the next one gathers. Messages are rows like any others and
 * settle one by one.
 */
export class Batcher {
  readonly #settings: BatcherSettings;
  readonly #parts: BatcherParts;
  #pending: Member[] = [];
  /** Calls that wait until there are fewer pending ones, in their order. */
  readonly #outside: Member[] = [];
  #sending: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Sends everything that was given so far without waiting for more. */
  #hurried = 0;
  #closing = false;
  #closed: () => void = () => undefined;
  /** Resolves once `close` has sent what was left. */
  readonly closed: Promise<void>;

  constructor(settings: BatcherSettings, parts: BatcherParts) {
    this.#settings = settings;
    this.#parts = parts;
    this.closed = new Promise((resolve) => {
      this.#closed = resolve;
    });
  }

  /**
   * Resolves when the message is committed; rejects with its own error. Belongs to no transaction of the caller's:
   * inside one, use `sendMessage(message, { tx })`.
   *
   * @throws ValidationFailed at once, before the message waits for any other
   */
  async send(message: MessageInput | AgentMessage): Promise<Sent> {
    if (this.#closing) throw new AgentCommunicationError("CLOSED", "this batcher was closed");
    const encoded = this.#parts.encode(message);
    return new Promise<Sent>((resolve, reject) => {
      this.#outside.push({ message: encoded, resolve, reject });
      this.#letIn();
      this.#advance();
    });
  }

  /** Sends what was given so far without waiting for more; resolves when all of it is stored, or has failed. */
  async flush(): Promise<void> {
    this.#hurried = this.#pending.length + this.#outside.length;
    this.#advance();
    const last = this.#outside.at(-1) ?? this.#pending.at(-1);
    const under = this.#sending;
    if (last === undefined) return under;
    await new Promise<void>((resolve) => {
      const { resolve: sent, reject: failed } = last;
      last.resolve = (answer) => {
        sent(answer);
        resolve();
      };
      last.reject = (error) => {
        failed(error);
        resolve();
      };
    });
  }

  /** Sends what is left; calls of `send` are refused from now on. */
  async close(): Promise<void> {
    this.#closing = true;
    await this.flush();
    await this.#sending;
    this.#closed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #letIn(): void {
    const room = this.#settings.maxPending - this.#pending.length;
    if (room > 0 && this.#outside.length > 0) this.#pending.push(...this.#outside.splice(0, room));
  }

  /** Begins the next batch if it is time, or sees to it that somebody does. */
  #advance(): void {
    if (this.#sending !== undefined || this.#pending.length === 0) return;
    const { maxSize, maxWaitMs } = this.#settings;
    if (this.#pending.length < maxSize && this.#hurried === 0) {
      this.#timer ??= setTimeout(() => this.#begin(), maxWaitMs);
      return;
    }
    this.#begin();
  }

  #begin(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const batch = this.#pending.splice(0, this.#settings.maxSize);
    this.#hurried = Math.max(0, this.#hurried - batch.length);
    this.#letIn();
    this.#sending = this.#send(batch).finally(() => {
      this.#sending = undefined;
      // What gathered meanwhile has waited for as long as this took: it goes at once.
      if (this.#pending.length > 0) this.#begin();
    });
  }

  /** Stores a batch; where that fails for one, the halves by themselves, in their order. */
  async #send(batch: readonly Member[]): Promise<void> {
    try {
      const flow = batch.length === 1 ? this.#parts.flow : noWait(this.#parts.flow);
      const sent = await this.#parts.send(this.#messages(batch), flow);
      for (const [n, member] of batch.entries()) member.resolve(sent[n] as Sent);
    } catch (error) {
      const all = error instanceof AgentCommunicationError && FOR_ALL.includes(error.code);
      if (batch.length === 1 || all) {
        for (const member of batch) member.reject(error);
        return;
      }
      const half = Math.ceil(batch.length / 2);
      await this.#send(batch.slice(0, half));
      await this.#send(batch.slice(half));
    }
  }

  #messages(batch: readonly Member[]): EncodedMessage[] {
    if (!this.#settings.headers) return batch.map(({ message }) => message);
    return batch.map(({ message }) => ({
      ...message,
      headersText: JSON.stringify({
        ...(JSON.parse(message.headersText ?? "{}") as object),
        "batch-size": batch.length,
      }),
    }));
  }
}

/** A batch in which one has no room is sent apart, and only what has none waits. */
function noWait(flow: Flow): Flow {
  return flow.whenFull === "wait" ? { ...flow, whenFull: "fail" } : flow;
}
