import type { Candidate, Db } from "./dialect.ts";
import { int, intOrNull, type Row } from "./sql.ts";

/** Counting ends here: what `why` costs must not grow with what waits. */
const MOST = 1_000;
/** Messages that are named one by one. */
const NAMED = 3;

/** A message that another one waits for. */
export interface InTheWay {
  readonly seq: number;
  readonly messageId: string;
  /** 0 ready or leased, 1 scheduled, 2 blocked. */
  readonly state: number;
  readonly workerId: string | null;
  readonly visibleAt: number;
}

/** What halts an ordering key. */
export interface Halt {
  readonly at: number;
  readonly sequence: number;
  /** Null when that dead letter is no more. */
  readonly messageId: string | null;
  readonly reason: string | null;
}

const COLUMNS = ["seq", "message_id", "state", "worker_id", "visible_at"];

/** What a gate looks at. */
const GATED = ["message_id", "seq", "rank", "lane", "message_type", "cost"].concat([
  ...["attempt", "max_attempts", "expires_at"],
]);

function inTheWay(row: Row): InTheWay {
  return {
    seq: int(row.seq),
    messageId: String(row.message_id),
    state: int(row.state),
    workerId: row.worker_id === null ? null : String(row.worker_id),
    visibleAt: int(row.visible_at),
  };
}

/** What a message waits for. Every look is the end of an index, or bounded. */
export class WhyStore {
  readonly #db: Db;
  readonly #messages: string;
  readonly #keys: string;
  readonly #dead: string;

  constructor(db: Db, prefix: string) {
    this.#db = db;
    this.#messages = `${prefix}messages`;
    this.#keys = `${prefix}keys`;
    this.#dead = `${prefix}dead_letters`;
  }

  /** What halts the ordering key; null where nothing does. */
  async halt(agentId: string, orderingKey: string): Promise<Halt | null> {
    const row = (await this.#db(`${this.#keys} as k`)
      .leftJoin(`${this.#dead} as d`, "d.seq", "k.halted_by")
      .where({ "k.to_agent": agentId, "k.kind": "order", "k.name": orderingKey })
      .whereNotNull("k.halted_by")
      .first("k.halted_by", "k.halted_at", "d.message_id", "d.reason")) as Row | undefined;
    if (row === undefined) return null;
    return {
      at: int(row.halted_at),
      sequence: int(row.halted_by),
      messageId: row.message_id === null ? null : String(row.message_id),
      reason: row.reason === null ? null : String(row.reason),
    };
  }

  /** The first message of an ordering key. */
  async head(agentId: string, orderingKey: string): Promise<InTheWay | undefined> {
    const row = (await this.#db(this.#messages)
      .where({ to_agent: agentId, ordering_key: orderingKey })
      .orderBy("seq")
      .first(...COLUMNS)) as Row | undefined;
    return row === undefined ? undefined : inTheWay(row);
  }

  /** How many messages of an ordering key come before this one. */
  async aheadInOrder(agentId: string, orderingKey: string, seq: number): Promise<number> {
    return this.#count(
      this.#db(this.#messages)
        .where({ to_agent: agentId, ordering_key: orderingKey })
        .where("seq", "<", seq),
    );
  }

  /** Those of a concurrency key that are ready or in flight: how many, and the first of them. */
  async sharing(
    agentId: string,
    concurrencyKey: string,
  ): Promise<{ count: number; first: InTheWay[] }> {
    const found = () =>
      this.#db(this.#messages)
        .where({ to_agent: agentId, concurrency_key: concurrencyKey })
        .whereRaw("state = 0");
    const first = (await found()
      .orderBy(["rank", "seq"])
      .limit(NAMED)
      .select(...COLUMNS)) as Row[];
    return { count: await this.#count(found()), first: first.map(inTheWay) };
  }

  /** Live messages by their sequence. */
  async bySequence(seqs: readonly number[]): Promise<InTheWay[]> {
    if (seqs.length === 0) return [];
    const rows = (await this.#db(this.#messages)
      .whereIn("seq", seqs.slice(0, NAMED))
      .select(...COLUMNS)) as Row[];
    return rows.map(inTheWay);
  }

  /** The first ready message that a claim would meet before this one, and how many there are. */
  async before(
    message: Pick<Candidate, "rank" | "seq" | "lane"> & { readonly agentId: string },
    now: number,
  ): Promise<{ count: number; head: (Candidate & { messageId: string }) | undefined }> {
    const { agentId, rank, seq } = message;
    const earlier: { seq: number; rank: number }[] = [];
    for (const lane of new Set(["", message.lane])) {
      // In the order of the index, and told apart here: with the rank known, PostgreSQL would follow the sequence
      // through all mailboxes.
      const rows = (await this.#db(this.#messages)
        .select("seq", "rank")
        .where({ to_agent: agentId, lane })
        .whereRaw("state = 0")
        .where("visible_at", "<=", now)
        .where("rank", "<=", rank)
        .orderBy(["rank", "seq"])
        .limit(MOST)) as Row[];
      earlier.push(...rows.map((row) => ({ seq: int(row.seq), rank: int(row.rank) })));
    }
    const before = earlier
      .filter((one) => one.rank < rank || one.seq < seq)
      .sort((a, b) => a.rank - b.rank || a.seq - b.seq);
    const [first] = before;
    const head =
      first &&
      ((await this.#db(this.#messages)
        .where({ seq: first.seq })
        .first(...GATED)) as Row | undefined);
    return { count: Math.min(before.length, MOST), head: head && candidate(head, now) };
  }

  async #count(found: ReturnType<Db>): Promise<number> {
    const inner = found.select("seq").limit(MOST).as("x");
    const row = (await this.#db.from(inner).count({ total: "*" }).first()) as unknown as Row;
    return int(row.total);
  }
}

/** A row as a gate looks at it. */
export function candidate(row: Row, now: number): Candidate & { messageId: string } {
  const expiresAt = intOrNull(row.expires_at);
  return {
    messageId: String(row.message_id),
    seq: int(row.seq),
    rank: int(row.rank),
    lane: String(row.lane),
    message_type: String(row.message_type),
    cost: intOrNull(row.cost) ?? 1,
    doomed: int(row.attempt) >= int(row.max_attempts) || (expiresAt !== null && expiresAt <= now),
  };
}
