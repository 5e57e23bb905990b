import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import type {
  ClaimedMessage,
  MessageInput,
  MessageQueueManager,
  ReceiveOptions,
} from "../../lib/index.ts";
import type { Claim, Entry, SettleKind } from "./types.ts";

type Unstamped<T> = T extends unknown ? Omit<T, "at"> : never;

/** The machine's monotonic clock: one for all processes, and no test shifts it. */
function moment(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Where a client writes down what it did. */
export interface Log {
  write(entry: Entry): void;
}

export class MemoryLog implements Log {
  readonly entries: Entry[] = [];

  write(entry: Entry): void {
    this.entries.push(entry);
  }
}

/** JSON lines. Written before the call goes on, so that a kill loses nothing that had happened. */
export class FileLog implements Log {
  readonly #file: number;

  constructor(path: string) {
    this.#file = openSync(path, "a");
  }

  write(entry: Entry): void {
    writeSync(this.#file, `${JSON.stringify(entry)}\n`);
  }

  close(): void {
    closeSync(this.#file);
  }
}

/** All that a file holds; a line that a kill cut short at the end had not been answered to anybody. */
export function readLog(path: string): Entry[] {
  const lines = readFileSync(path, "utf8").split("\n");
  const rest = lines.pop() ?? "";
  const entries = lines.map((line) => JSON.parse(line) as Entry);
  try {
    if (rest !== "") entries.push(JSON.parse(rest) as Entry);
  } catch {
    // Cut short.
  }
  return entries;
}

export type Input = MessageInput & {
  messageId: string;
  orderingKey?: string;
  concurrencyKey?: string;
  cost?: number;
};

/** Thrown by the caller of a transaction to roll it back. */
export class RolledBack extends Error {}

/** A client of a queue that writes down each call and its answer. Errors are recorded and thrown on. */
export class Recorder {
  readonly #queue: MessageQueueManager;
  readonly #name: string;
  readonly #log: Log;
  #ops = 0;

  constructor(queue: MessageQueueManager, name: string, log: Log) {
    this.#queue = queue;
    this.#name = name;
    this.#log = log;
  }

  /** `how`: outside any transaction, in one that commits, or in one that the caller rolls back. */
  async send(inputs: readonly Input[], how: "plain" | "tx" | "rollback" = "plain"): Promise<void> {
    const op = this.#op();
    const messages = inputs.map((input) => ({
      messageId: input.messageId,
      toAgent: [input.toAgent].flat(),
      messageType: input.messageType,
      ...(input.dedupeKey === undefined ? {} : { dedupeKey: input.dedupeKey }),
      ...(input.orderingKey === undefined ? {} : { orderingKey: input.orderingKey }),
      ...(input.concurrencyKey === undefined ? {} : { concurrencyKey: input.concurrencyKey }),
      ...(input.cost === undefined ? {} : { cost: input.cost }),
    }));
    this.#write({ e: "send", op, messages });
    await this.#answered(op, async () => {
      if (how === "plain") {
        this.#write({ e: "sent", op, stored: own(inputs, await this.#queue.sendMessages(inputs)) });
        return;
      }
      let refused = false;
      try {
        const sent = await this.#queue.knex.transaction(async (tx) => {
          const answer = await this.#queue.sendMessages(inputs, { tx });
          refused = how === "rollback";
          if (refused) throw new RolledBack();
          return answer;
        });
        this.#write({ e: "sent", op, stored: own(inputs, sent) });
      } catch (error) {
        // Before COMMIT was sent nothing can have been stored, whatever became of the ROLLBACK.
        if (!refused) throw error;
        this.#write({ e: "not_sent", op });
      }
    });
  }

  async claim(mailbox: string, options: ReceiveOptions & { leaseMs: number }) {
    const op = this.#op();
    this.#write({ e: "look", op, mailbox, leaseMs: options.leaseMs });
    return this.#answered(op, async () => {
      const claims = await this.#queue.getMessages(mailbox, options);
      this.#write({ e: "claimed", op, claims: claims.map(claimOf) });
      return claims;
    });
  }

  async ack(claims: readonly ClaimedMessage[]): Promise<void> {
    await this.#settle("ack", claims, () => this.#queue.ackMessages(claims));
  }

  async nack(claim: ClaimedMessage, delayMs?: number): Promise<void> {
    const options = delayMs === undefined ? {} : { delayMs };
    await this.#settle("nack", [claim], async () => [await claim.nack(new Error("no"), options)]);
  }

  async defer(claim: ClaimedMessage, delayMs: number): Promise<void> {
    await this.#settle("defer", [claim], async () => [await claim.defer(delayMs)]);
  }

  async extend(claim: ClaimedMessage, leaseMs: number): Promise<void> {
    await this.#settle("extend", [claim], async () => [await claim.extend(leaseMs)], leaseMs);
  }

  async deadLetter(claim: ClaimedMessage): Promise<void> {
    await this.#settle("deadLetter", [claim], async () => [await claim.deadLetter("unwanted")]);
  }

  async cancel(messageId: string): Promise<void> {
    const op = this.#op();
    this.#write({ e: "cancel", op, messageId });
    await this.#answered(op, () => this.#queue.cancelMessage(messageId));
  }

  async redrive(agentId: string, limit: number): Promise<void> {
    const op = this.#op();
    this.#write({ e: "redrive", op, elsewhere: false });
    await this.#answered(op, () => this.#queue.deadLetters.redrive({ agentId, limit }));
  }

  /** Around what a worker's handler does. */
  async handle(claim: ClaimedMessage, run: () => Promise<void>): Promise<void> {
    const op = this.#op();
    this.#write({ e: "begin", op, claim: claimOf(claim) });
    let failed = true;
    try {
      await run();
      failed = false;
    } finally {
      this.#write({ e: "end", op, failed });
    }
  }

  async #settle(
    kind: SettleKind,
    claims: readonly ClaimedMessage[],
    run: () => Promise<string[]>,
    leaseMs?: number,
  ): Promise<void> {
    const op = this.#op();
    const keys = claims.map(({ sequence: seq, receipt }) => ({ seq, receipt }));
    this.#write({ e: "settle", op, kind, claims: keys, leaseMs });
    await this.#answered(op, async () => this.#write({ e: "settled", op, outcomes: await run() }));
  }

  async #answered<T>(op: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      this.#write({ e: "unknown", op, error: (error as Error).message });
      throw error;
    }
  }

  #op(): string {
    return `${this.#name}:${this.#ops++}`;
  }

  #write(entry: Unstamped<Entry>): void {
    this.#log.write({ ...entry, at: moment() } as Entry);
  }
}

/** Which of them are stored under their own id. */
function own(inputs: readonly Input[], sent: readonly { messageId: string }[]): boolean[] {
  return inputs.map(({ messageId }, n) => sent[n]?.messageId === messageId);
}

function claimOf(message: ClaimedMessage): Claim {
  return {
    seq: message.sequence,
    receipt: message.receipt,
    messageId: message.messageId,
    mailbox: message.toAgent as string,
    attempt: message.attempt,
    maxAttempts: message.maxAttempts,
    leaseExpiresAt: message.leaseExpiresAt,
    expiresAt: message.expiresAt,
  };
}
