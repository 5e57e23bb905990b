import type { Knex } from "knex";
import { ServiceUnavailable } from "../errors.ts";
import { type DeadLetterFilter, DeadLetterWalk, type GroupRow } from "./dead-letter-walk.ts";
import type { Db, Dialect } from "./dialect.ts";
import { DOCUMENTS, ENVELOPE, TOLD } from "./envelope-columns.ts";
import { KeyStore } from "./keys.ts";
import { asText } from "./messages.ts";
import { REF } from "./payloads.ts";
import { PutBack } from "./put-back.ts";
import { parseText } from "./rows.ts";
import { int, intOrNull, type Row, readClock, transaction, translated } from "./sql.ts";

/** Rows that one transaction sends again: each travels with its content. */
const REDRIVE_STEP = 100;
/** Rows that one transaction deletes. */
const DISCARD_STEP = 500;
/** Parameters of one insert; SQL Server takes 2,100. */
const MOST_BINDINGS = 2_000;

/** How often an edit begins anew when others edit the same letter. */
const MOST_LOOKS = 20;

/** Says where a message failed first, once it was sent into another mailbox. */
export const ORIGIN_HEADER = "x-original-agent";

/** A step that is committed. */
export interface DeadLetterStep {
  /** How many were found. */
  readonly matched: number;
  /** Those of them that were there still: the others, someone else took first. */
  readonly rows: Row[];
}

interface Return {
  readonly toAgent: string | undefined;
  /** How long from now the nth of the rows is handed out. */
  readonly delayMs: (n: number) => number;
}

/** The messages that could not be delivered, with the reason. */
export class DeadLetterStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #walk: DeadLetterWalk;
  readonly #keys: KeyStore;
  readonly #back: PutBack;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}dead_letters`;
    this.#walk = new DeadLetterWalk(dialect, this.#table);
    this.#keys = new KeyStore(knex, dialect, prefix);
    this.#back = new PutBack(this.#keys, dialect, prefix);
  }

  /** In the order of their sequence, from `afterSeq` on. */
  async list(filter: DeadLetterFilter, limit: number, after = 0): Promise<Row[]> {
    return translated(this.#dialect, async () => {
      const rows: Row[] = [];
      const until = await this.#walk.end(this.#knex);
      const steps = this.#walk.steps(this.#knex, filter, { after, until, step: limit });
      for await (const seqs of steps) {
        const wanted = seqs.slice(0, limit - rows.length);
        rows.push(
          ...((await this.#knex(this.#table).whereIn("seq", wanted).orderBy("seq")) as Row[]),
        );
        if (rows.length >= limit) break;
      }
      return rows;
    });
  }

  async get(db: Db, messageId: string): Promise<Row[]> {
    return translated(this.#dialect, () =>
      db(this.#table).where({ message_id: messageId }).orderBy("seq"),
    );
  }

  async groups(
    filter: DeadLetterFilter,
    limit: number,
  ): Promise<{ groups: GroupRow[]; capped: boolean }> {
    return translated(this.#dialect, () => this.#walk.groups(this.#knex, filter, limit));
  }

  /** How many match, at most `limit`. */
  async count(filter: DeadLetterFilter, limit: number): Promise<number> {
    return translated(this.#dialect, async () => {
      let matched = 0;
      const range = { after: 0, until: await this.#walk.end(this.#knex), step: DISCARD_STEP };
      for await (const seqs of this.#walk.steps(this.#knex, filter, range)) {
        matched += seqs.length;
        if (matched >= limit) return limit;
      }
      return matched;
    });
  }

  /**
   * Moves up to `limit` dead letters back, in bounded steps of one transaction each: an operator who stops or dies
   * half-way has lost nothing, and two who redrive at once send nothing twice. A rate becomes a growing delay of
   * the messages themselves, so that nobody has to stay until the last is sent.
   */
  redrive(
    filter: DeadLetterFilter,
    options: {
      limit: number;
      toAgent?: string | undefined;
      delayMs: number;
      perSecond?: number | undefined;
    },
  ): AsyncGenerator<DeadLetterStep> {
    const { limit, toAgent, delayMs, perSecond = Number.POSITIVE_INFINITY } = options;
    return this.#steps(filter, { limit, step: REDRIVE_STEP }, async (trx, seqs, done) => {
      // What a second operator took in the meantime is not returned to us, so it is not sent again.
      const rows = await this.#dialect.takeOut(trx, this.#table, seqs);
      rows.sort((a, b) => int(a.seq) - int(b.seq));
      await this.#putBack(trx, rows, {
        toAgent,
        delayMs: (n) => delayMs + Math.floor(((done + n) * 1_000) / perSecond),
      });
      return rows;
    });
  }

  /** Deletes for good, in bounded steps. Yields what observers are told of each. */
  discard(filter: DeadLetterFilter, limit: number): AsyncGenerator<DeadLetterStep> {
    return this.#steps(filter, { limit, step: DISCARD_STEP }, async (trx, seqs) => {
      const refs = (await trx(this.#table)
        .select("seq", trx.raw(REF))
        .whereIn("seq", seqs)
        .andWhere({ content_encoding: "ref" })) as Row[];
      const rows = await this.#dialect.takeOut(trx, this.#table, seqs, TOLD);
      await this.#keys.free(trx, seqs);
      const refOf = new Map(refs.map((row) => [int(row.seq), row.content_ref]));
      for (const row of rows) row.content_ref = refOf.get(int(row.seq));
      return rows.sort((a, b) => int(a.seq) - int(b.seq));
    });
  }

  async *#steps(
    filter: DeadLetterFilter,
    { limit, step }: { limit: number; step: number },
    run: (trx: Db, seqs: number[], done: number) => Promise<Row[]>,
  ): AsyncGenerator<DeadLetterStep> {
    let done = 0;
    const until = await translated(this.#dialect, () => this.#walk.end(this.#knex));
    const steps = this.#walk.steps(this.#knex, filter, { after: 0, until, step });
    for (;;) {
      const found = await translated(this.#dialect, () => steps.next());
      if (found.done === true) return;
      for (let n = 0; n < found.value.length; ) {
        const part = found.value.slice(n, n + limit - done);
        n += part.length;
        const rows = await translated(this.#dialect, () =>
          transaction(this.#dialect, this.#knex, (trx) => run(trx, part, done)),
        );
        done += rows.length;
        yield { matched: part.length, rows };
        if (done >= limit) return;
      }
    }
  }

  /** Inserts dead letters into the live table again, as new messages that have not run yet. */
  async #putBack(trx: Db, rows: readonly Row[], { toAgent, delayMs }: Return): Promise<void> {
    const now = this.#dialect.now;
    const back = rows.map((row, n) => {
      const delay = delayMs(n);
      const due = trx.raw(`${now} + CAST(? AS bigint)`, [delay]);
      return {
        seq: int(row.seq),
        ...Object.fromEntries(ENVELOPE.map((column) => [column, row[column]])),
        ...Object.fromEntries(DOCUMENTS.map((column) => [column, asText(row[column])])),
        headers: asText(withOrigin(row, toAgent)),
        ...(isBrakeReason(row.reason) ? { hops: null, trail: null } : {}),
        last_error: asText(row.last_error),
        to_agent: toAgent ?? row.to_agent,
        created_at: int(row.created_at),
        // It had its time once; an operator who sends it again wants it delivered.
        expires_at: null,
        rank: 100 - int(row.priority),
        state: delay > 0 ? 1 : 0,
        visible_at: due,
        due_at: delay > 0 ? due : null,
        worker_id: null,
        // The fence goes on growing: a worker that still holds an old receipt stays stale.
        receipt: int(row.receipt) + 1,
        attempt: 0,
        max_attempts: int(row.max_attempts),
        first_failed_at: intOrNull(row.first_failed_at),
        redriven: int(row.redriven) + 1,
      };
    });
    const most = Math.max(1, Math.floor(MOST_BINDINGS / Object.keys(back[0] ?? {}).length));
    await this.#back.insert(trx, back, most);
    // What was sent into another mailbox halts its key no more.
    await this.#keys.free(
      trx,
      rows.map(({ seq }) => int(seq)),
    );
  }

  /**
   * Changes one dead letter and, where told, sends it again, both or neither. Returns the dead letters that were
   * meant: just one, or nothing was changed.
   */
  async edit(
    meant: { messageId: string; agentId?: string | undefined; sequence?: number | undefined },
    change: (row: Row, now: number) => Row,
    replay?: { toAgent: string | undefined; delayMs: number },
  ): Promise<Row[]> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        for (let tries = 0; ; tries++) {
          const rows = (await trx(this.#table)
            .where({
              message_id: meant.messageId,
              ...(meant.agentId === undefined ? {} : { to_agent: meant.agentId }),
              ...(meant.sequence === undefined ? {} : { seq: meant.sequence }),
            })
            .orderBy("seq")
            .limit(2)) as Row[];
          const [row] = rows;
          if (row === undefined || rows.length > 1) return rows;
          const changed = await this.#change(trx, row, change, replay);
          if (changed !== undefined) return [changed];
          // Someone redrove or edited it since it was read: look again.
          if (tries > MOST_LOOKS) throw new ServiceUnavailable("others go on editing it");
        }
      }),
    );
  }

  /** Undefined when it is not any more what was read. */
  async #change(
    trx: Db,
    row: Row,
    change: (row: Row, now: number) => Row,
    replay: { toAgent: string | undefined; delayMs: number } | undefined,
  ): Promise<Row | undefined> {
    const seq = int(row.seq);
    const clock = await readClock(trx, this.#dialect);
    if (replay !== undefined) {
      const [taken] = await this.#dialect.takeOut(trx, this.#table, [seq]);
      if (taken === undefined) return undefined;
      const changed = { ...taken, ...change(taken, clock) };
      const { toAgent, delayMs } = replay;
      await this.#putBack(trx, [changed], { toAgent, delayMs: () => delayMs });
      return changed;
    }
    const receipt = int(row.receipt);
    const changes = { ...change(row, clock), receipt: receipt + 1 };
    const done = await trx(this.#table).where({ seq, receipt }).update(changes);
    return done > 0 ? { ...row, ...changes } : undefined;
  }

  /** Deletes at most `limit` dead letters that failed longer ago than the retention. */
  async purgeOld(
    retentionMs: number,
    limit: number,
    gone?: (rows: Row[]) => void,
  ): Promise<number> {
    const old = `failed_at <= ${this.#dialect.now} - CAST(? AS bigint)`;
    return translated(this.#dialect, async () => {
      const found = (await this.#knex(this.#table)
        .select("seq", this.#knex.raw(REF))
        .whereRaw(old, [retentionMs])
        .orderBy("failed_at")
        .limit(limit)) as Row[];
      if (found.length === 0) return 0;
      const seqs = found.map((row) => int(row.seq));
      const deleted = await transaction(this.#dialect, this.#knex, async (trx) => {
        const rows = await trx(this.#table).whereIn("seq", seqs).del();
        await this.#keys.free(trx, seqs);
        return rows;
      });
      gone?.(found);
      return deleted;
    });
  }
}

/** What was stopped as part of a loop begins a new chain: an operator has decided that it goes on. */
function isBrakeReason(reason: unknown): boolean {
  return reason === "hop_limit" || reason === "ping_pong";
}

function withOrigin(row: Row, toAgent: string | undefined): unknown {
  if (toAgent === undefined || toAgent === row.to_agent) return row.headers;
  return { [ORIGIN_HEADER]: row.to_agent, ...((parseText(row.headers) as object | null) ?? {}) };
}
