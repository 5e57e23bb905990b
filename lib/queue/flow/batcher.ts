import { AgentCommunicationError, QueueFull } from "../../errors.ts";
import type { AgentMessage } from "../../protocol/agent-message.ts";
import type { EncodedMessage } from "../../protocol/envelope.ts";
import type { BatcherSettings, Flow } from "../../protocol/flow.ts";
import type { MessageInput } from "../../protocol/message-input.ts";
import type { Sent } from "../../store/sending.ts";
import { isForAll } from "../../store/together.ts";

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

/** Messages that wait for room, in order, and all the mailboxes that later ones must not reach before them. */
interface Line {
  readonly members: Member[];
  readonly agents: Set<string>;
}

/**
 * Collects single sends into one statement and one commit. One batch is under way at a time, so the order of the
 * calls is the order of the messages; while it is, the next one gathers. Messages without room in their mailbox or
 * window leave the batches, with all later ones to the same mailbox, and hold up nobody else. Messages are rows like
 * any others and settle one by one.
 */
export class Batcher {
  readonly #settings: BatcherSettings;
  readonly #parts: BatcherParts;
  readonly #pending: Member[] = [];
  /** Calls that wait until there are fewer pending ones, in their order. */
  readonly #outside: Member[] = [];
  /** Calls that have not ended. */
  readonly #open = new Set<Promise<Sent>>();
  readonly #lines = new Map<string, Line>();
  /** Messages in lines. */
  #held = 0;
  #sending = false;
  #timer: NodeJS.Timeout | undefined;
  /** How many of the pending ones go without waiting for more. */
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
   * @throws ValidationFailed at once, before the message waits for any other; what `sendMessage` throws
   */
  async send(message: MessageInput | AgentMessage): Promise<Sent> {
    if (this.#closing) throw new AgentCommunicationError("CLOSED", "this batcher was closed");
    const encoded = this.#parts.encode(message);
    const sent = new Promise<Sent>((resolve, reject) => {
      this.#outside.push({ message: encoded, resolve, reject });
    });
    this.#open.add(sent);
    this.#letIn();
    this.#advance();
    try {
      return await sent;
    } finally {
      this.#open.delete(sent);
    }
  }

  /** Sends what was given so far without waiting for more; resolves when all of it is stored, or has failed. */
  async flush(): Promise<void> {
    this.#hurried = this.#pending.length + this.#outside.length;
    this.#advance();
    await Promise.allSettled(this.#open);
  }

  /** Sends what is left, which may take as long as its sends may wait; further ones are refused from now on. */
  async close(): Promise<void> {
    this.#closing = true;
    await this.flush();
    this.#closed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #letIn(): void {
    const room = this.#settings.maxPending - this.#pending.length - this.#held;
    if (room > 0 && this.#outside.length > 0) this.#pending.push(...this.#outside.splice(0, room));
  }

  /** Begins the next batch if it is time, or sees to it that somebody does. */
  #advance(): void {
    if (this.#sending || this.#pending.length === 0) return;
    const { maxSize, maxWaitMs } = this.#settings;
    if (this.#pending.length >= maxSize || this.#hurried > 0) void this.#begin();
    else this.#timer ??= setTimeout(() => void this.#begin(), maxWaitMs);
  }

  async #begin(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#sending = true;
    // What gathers while a batch is under way has waited for as long as that took: it goes at once.
    while (this.#pending.length > 0) {
      const batch = this.#pending.splice(0, this.#settings.maxSize);
      this.#hurried = Math.max(0, this.#hurried - batch.length);
      this.#letIn();
      await this.#send(batch, undefined);
    }
    this.#sending = false;
  }

  /** Stores a batch; where that fails for one, the halves by themselves, in their order. Never rejects. */
  async #send(given: readonly Member[], line: Line | undefined): Promise<void> {
    const batch = line === undefined ? given.filter((member) => !this.#joins(member)) : given;
    const [first] = batch;
    if (first === undefined) return;
    const waits = batch.length === 1 && line !== undefined;
    try {
      const flow = waits ? this.#parts.flow : withoutWait(this.#parts.flow);
      const sent = await this.#parts.send(this.#messages(batch), flow);
      for (const [n, member] of batch.entries()) member.resolve(sent[n] as Sent);
    } catch (error) {
      const full = error instanceof QueueFull && error.retryable;
      if (batch.length === 1 && full && !waits && this.#parts.flow.whenFull === "wait") {
        this.#hold(first);
      } else if (batch.length === 1 || isForAll(error)) {
        for (const member of batch) member.reject(error);
      } else {
        const half = Math.ceil(batch.length / 2);
        await this.#send(batch.slice(0, half), line);
        await this.#send(batch.slice(half), line);
      }
    }
  }

  /** Whether it goes behind others that wait for room in one of its mailboxes. */
  #joins(member: Member): boolean {
    const { toAgent } = member.message.head;
    const line = toAgent.map((agentId) => this.#lines.get(agentId)).find(Boolean);
    if (line === undefined) return false;
    this.#enter(line, member);
    return true;
  }

  #hold(member: Member): void {
    const line: Line = { members: [], agents: new Set() };
    this.#enter(line, member);
    void this.#work(line);
  }

  #enter(line: Line, member: Member): void {
    this.#held += 1;
    line.members.push(member);
    for (const agentId of member.message.head.toAgent) {
      if (this.#lines.has(agentId)) continue;
      this.#lines.set(agentId, line);
      line.agents.add(agentId);
    }
  }

  async #work(line: Line): Promise<void> {
    while (line.members.length > 0) {
      const batch = line.members.splice(0, this.#settings.maxSize);
      await this.#send(batch, line);
      this.#held -= batch.length;
      this.#letIn();
      this.#advance();
    }
    for (const agentId of line.agents) this.#lines.delete(agentId);
  }

  #messages(batch: readonly Member[]): EncodedMessage[] {
    if (!this.#settings.headers) return batch.map(({ message }) => message);
    return batch.map(({ message }) => {
      const headers = JSON.parse(message.head.headersText ?? "{}") as object;
      const headersText = JSON.stringify({ ...headers, "batch-size": batch.length });
      return message.under({ ...message.head, headersText });
    });
  }
}

/** A batch in which one has no room is sent in parts, and only what has none waits. */
function withoutWait(flow: Flow): Flow {
  return flow.whenFull === "wait" ? { ...flow, whenFull: "fail" } : flow;
}
