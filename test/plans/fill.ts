import type { Knex } from "knex";
import type { DialectName } from "../support/database-server.ts";
import { inserter } from "../support/plans.ts";

const HOUR_MS = 3_600_000;

/** The tables that grow with what is sent: none of them may be read from end to end. */
export const GROWING = [
  "outbox_messages",
  "outbox_archive",
  "outbox_dead_letters",
  "outbox_dedupe",
  "outbox_inbox",
  "outbox_conversations",
  "outbox_consumers",
  "outbox_keys",
  "outbox_slots",
];

/** Columns of a portion of messages as SQL over `i`; what is left out is as of a plain, ready one. */
type Columns = Partial<
  Record<
    | "to_agent"
    | "state"
    | "visible_at"
    | "due_at"
    | "expires_at"
    | "ordering_key"
    | "concurrency_key"
    | "worker_id"
    | "receipt"
    | "priority"
    | "rank",
    string
  >
>;

/** Fills the tables step by step, each step with `n` further messages and as many rows beside them. */
export class Filling {
  readonly #insert: ReturnType<typeof inserter>;
  readonly #now: string;
  #filled = 0;

  constructor(knex: Knex, dialect: DialectName, now: string) {
    this.#insert = inserter(knex, dialect);
    this.#now = now;
  }

  /** `n` messages of a kind, with the numbers after `from`. */
  async messages(name: string, n: number, columns: Columns, from = 0): Promise<void> {
    const now = this.#now;
    const values: Record<string, string> = {
      message_id: `CONCAT('${name}-', i)`,
      from_agent: "'boss'",
      to_agent: `'${name}'`,
      message_type: "CASE WHEN (i / 100) % 10 = 0 THEN 'OTHER' ELSE 'NOTE' END",
      kind: "'event'",
      content: "'{}'",
      created_at: now,
      priority: "i % 100",
      rank: "100 - i % 100",
      state: "0",
      visible_at: `${now} - 1000`,
      due_at: "NULL",
      expires_at: "NULL",
      ordering_key: "NULL",
      concurrency_key: "NULL",
      worker_id: "NULL",
      receipt: "0",
      attempt: "0",
      max_attempts: "3",
      redriven: "0",
      lane: "''",
      ...columns,
    };
    await this.#insert(
      `INSERT INTO outbox_messages (${Object.keys(values).join(", ")})
       SELECT ${Object.values(values).join(", ")} FROM (SELECT i + ${from} AS i FROM series) r`,
      n,
    );
  }

  /** Half of them ready in one mailbox; the others scheduled, blocked, expired or in a thousand other mailboxes. */
  async step(n: number): Promise<void> {
    const now = this.#now;
    const before = this.#filled;
    this.#filled += n;
    const far = `${now} + ${HOUR_MS} + i`;
    const of = (name: string, percent: number, columns: Columns) =>
      this.messages(name, (n * percent) / 100, columns, (before * percent) / 100);
    const scheduled = { state: "1", visible_at: far, due_at: far };
    const behindHead = { state: "CASE WHEN i <= 100 THEN 0 ELSE 2 END" };
    await of("busy", 50, {});
    await of("crowd", 8, { to_agent: "CONCAT('crowd-', i % 1000)" });
    await of("gated", 5, {});
    await of("busy-later", 8, { ...scheduled, to_agent: "'busy'" });
    await of("later", 5, { ...scheduled, to_agent: "CONCAT('later-', i % 100)" });
    await of("due", 5, { ...scheduled, visible_at: `${now} - i`, due_at: `${now} - i` });
    await of("ordered", 7, { ...behindHead, ordering_key: "CONCAT('key-', i % 100)" });
    await of("shared", 7, { ...behindHead, concurrency_key: "CONCAT('key-', i % 100)" });
    await of("expired", 3, { expires_at: `${now} - i` });
    await of("expiring", 2, { expires_at: far });
    await this.#beside(n, before);
  }

  async #beside(n: number, before: number): Promise<void> {
    const now = this.#now;
    const from = `FROM (SELECT i + ${before} AS i FROM series) r`;
    const envelope = "message_id, from_agent, to_agent, message_type, kind, content, created_at";
    const ended = (name: string) =>
      `i + 10000000, CONCAT('${name}-', i), 'boss', CONCAT('agent-', i % 1000), 'NOTE', 'event', '{}', ${now}, 20`;
    // Half of it is to be kept no longer.
    const age = `${now} - (i % 2) * ${30 * 24 * HOUR_MS} - i`;
    await this.#insert(
      `INSERT INTO outbox_archive (seq, ${envelope}, priority, outcome, worker_id, attempt, finished_at)
       SELECT ${ended("done")}, 'processed', 'w', 1, ${age} ${from}`,
      n,
    );
    await this.#insert(
      `INSERT INTO outbox_dead_letters (seq, ${envelope}, priority, reason, fingerprint, receipt, attempt, max_attempts, failed_at, redriven)
       SELECT ${ended("dead")}, 'rejected', CONCAT('f-', i % 20), 1, 1, 3, ${age}, 0 ${from}`,
      n / 2,
    );
    await this.#insert(
      `INSERT INTO outbox_dedupe (dedupe_key, message_id, expires_at) SELECT CONCAT('key-', i), 'm', ${age} ${from}`,
      n / 2,
    );
    await this.#insert(
      `INSERT INTO outbox_inbox (consumer, from_agent, message_id, processed_at) SELECT 'once', 'boss', CONCAT('m-', i), ${age} ${from}`,
      n / 2,
    );
    await this.#insert(
      `INSERT INTO outbox_conversations (context_id, messages, updated_at) SELECT CONCAT('context-', i), 3, ${age} ${from}`,
      n / 2,
    );
    await this.#insert(
      `INSERT INTO outbox_consumers (agent_id, worker_id, seen_at) SELECT CONCAT('agent-', i % 1000), CONCAT('w-', i), ${age} ${from}`,
      n / 10,
    );
    await this.#insert(
      `INSERT INTO outbox_keys (to_agent, kind, name) SELECT CONCAT('agent-', i % 100), 'order', CONCAT('idle-', i) ${from}`,
      n,
    );
    await this.#insert(
      `INSERT INTO outbox_keys (to_agent, kind, name, last_rank) SELECT 'a-fair', 'turn20', CONCAT('context-', i), i ${from}`,
      n / 10,
    );
    await this.#insert(
      `INSERT INTO outbox_slots (name, seq, receipt) SELECT CONCAT('limit-', i % 10), i, 1 ${from}`,
      n / 10,
    );
  }
}
