import type { Knex } from "knex";
import type { Db, Dialect } from "./dialect.ts";
import { int, intOrNull, query, type Row, translated } from "./sql.ts";

/** Beyond this many rows of one state, stats say "at least": their cost must not grow with the backlog. */
const COUNT_LIMIT = 10_000;

export interface Depth {
  readonly pending: number;
  readonly scheduled: number;
  readonly blocked: number;
  readonly leased: number;
  readonly dead: number;
  /** True where a number stands for "at least": counting stops at COUNT_LIMIT rows. */
  readonly capped: boolean;
  readonly oldestCreatedAt: number | null;
  /** For how long the lease is over that passed first of those that nobody claimed again; 0: none has. */
  readonly lapsedMs: number;
}

/** Looking after the tables and telling about them: pause, depth. Every step is bounded. */
export class UpkeepStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #prefix: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#prefix = prefix;
  }

  #table(name: string): string {
    return `${this.#prefix}${name}`;
  }

  async pause(agentId: string, reason: string | null): Promise<void> {
    await translated(this.#dialect, async () => {
      const values = {
        paused_at: this.#knex.raw(this.#dialect.now),
        pause_reason: reason,
      };
      const table = this.#table("mailboxes");
      for (let tries = 0; ; tries++) {
        if ((await this.#knex(table).where({ agent_id: agentId }).update(values)) > 0) return;
        try {
          await this.#knex(table).insert({ agent_id: agentId, ...values });
          return;
        } catch (error) {
          // Someone else inserted it between the two statements: update that one.
          if (this.#dialect.classify(error) !== "unique" || tries > 2) throw error;
        }
      }
    });
  }

  /** Returns whether the mailbox was paused. */
  async resume(agentId: string): Promise<boolean> {
    return translated(this.#dialect, async () => {
      const changed = await this.#knex(this.#table("mailboxes"))
        .where({ agent_id: agentId })
        .whereNotNull("paused_at")
        .update({ paused_at: null, pause_reason: null });
      return changed > 0;
    });
  }

  async paused(
    db: Db,
    agentId: string,
  ): Promise<{ pausedAt: number; reason: string | null } | null> {
    return translated(this.#dialect, async () => {
      const row = (await db(this.#table("mailboxes")).where({ agent_id: agentId }).first()) as
        | Row
        | undefined;
      const pausedAt = intOrNull(row?.paused_at);
      return pausedAt === null
        ? null
        : { pausedAt, reason: (row?.pause_reason as string | null) ?? null };
    });
  }

  /** Counts by walking at most COUNT_LIMIT entries of each index. */
  async depth(agentId: string | null): Promise<Depth> {
    return translated(this.#dialect, async () => {
      const messages = this.#table("messages");
      const now = this.#dialect.now;
      const ofAgent = (builder: Knex.QueryBuilder) =>
        agentId === null ? builder : builder.where("to_agent", agentId);
      const bounded = (state: number) => {
        const inner = ofAgent(
          this.#knex(messages)
            .select("created_at", "visible_at", "worker_id")
            // A literal, so that the planner may use the partial index of the state.
            .whereRaw(`state = ${state}`),
        ).limit(COUNT_LIMIT + 1);
        // The order of the index, so that the walk needs no sort.
        if (state === 0 && agentId !== null) {
          inner.orderBy(["lane", "rank", "seq"]);
        }
        return inner.as("x");
      };
      const leased = `worker_id IS NOT NULL AND visible_at > ${now}`;
      const ready = (await this.#knex
        .from(bounded(0))
        .select(
          this.#knex.raw(`COUNT(*) AS total`),
          this.#knex.raw(`SUM(CASE WHEN ${leased} THEN 1 ELSE 0 END) AS leased`),
          this.#knex.raw(`MIN(CASE WHEN ${leased} THEN NULL ELSE created_at END) AS oldest`),
          this.#knex.raw(
            `${now} - MIN(CASE WHEN worker_id IS NOT NULL AND visible_at <= ${now} THEN visible_at END) AS lapsed`,
          ),
        )
        .first()) as unknown as Row;
      const count = async (source: unknown): Promise<number> => {
        const row = (await this.#knex
          .from(source as Knex.QueryBuilder)
          .count({ total: "*" })
          .first()) as unknown as Row;
        return int(row.total);
      };
      const scheduled = await count(bounded(1));
      const blocked = await count(bounded(2));
      const dead = await count(
        ofAgent(this.#knex(this.#table("dead_letters")).select("seq"))
          .limit(COUNT_LIMIT + 1)
          .as("x"),
      );
      const total = int(ready.total);
      const inFlight = int(ready.leased ?? 0);
      const most = (n: number) => Math.min(n, COUNT_LIMIT);
      return {
        pending: most(total - inFlight),
        leased: inFlight,
        scheduled: most(scheduled),
        blocked: most(blocked),
        dead: most(dead),
        capped: [total, scheduled, blocked, dead].some((n) => n > COUNT_LIMIT),
        oldestCreatedAt: intOrNull(ready.oldest),
        lapsedMs: Math.max(0, intOrNull(ready.lapsed) ?? 0),
      };
    });
  }

  /** Messages processed per minute, from the times of the last finished ones (at most 1,000). */
  async throughput(agentId: string | null): Promise<number> {
    return translated(this.#dialect, async () => {
      const archive = this.#table("archive");
      const inner = this.#knex(archive)
        .select("finished_at", "to_agent")
        .whereRaw(`finished_at > ${this.#dialect.now} - 60000`)
        .orderBy("finished_at", "desc")
        .limit(1_000)
        .as("x");
      const row = (await this.#knex
        .from(inner)
        .select(
          this.#knex.raw(
            agentId === null
              ? "COUNT(*) AS total"
              : "SUM(CASE WHEN to_agent = ? THEN 1 ELSE 0 END) AS total",
            agentId === null ? [] : [agentId],
          ),
          this.#knex.raw("COUNT(*) AS seen"),
          this.#knex.raw(`${this.#dialect.now} - MIN(finished_at) AS span`),
        )
        .first()) as unknown as Row;
      const total = int(row.total ?? 0);
      // Fewer than asked: these are all of the last minute. Otherwise the sample spans less than a minute.
      if (int(row.seen) < 1_000) return total;
      return Math.round((total * 60_000) / Math.max(1, int(row.span)));
    });
  }

  /** As `depth` tells it, of all mailboxes. */
  async lapsedMs(): Promise<number> {
    return translated(this.#dialect, async () => {
      const { now } = this.#dialect;
      const inner = this.#knex(this.#table("messages"))
        .select("visible_at", "worker_id")
        .whereRaw("state = 0")
        .limit(COUNT_LIMIT)
        .as("x");
      const row = (await this.#knex
        .from(inner)
        .select(this.#knex.raw(`${now} - MIN(visible_at) AS lapsed`))
        .whereNotNull("worker_id")
        .whereRaw(`visible_at <= ${now}`)
        .first()) as Row | undefined;
      return Math.max(0, intOrNull(row?.lapsed) ?? 0);
    });
  }

  /** Returns what observers are told of each. */
  async buryExpired(limit: number): Promise<Row[]> {
    return translated(this.#dialect, () => this.#dialect.buryExpired(this.#knex, limit));
  }

  /** A round trip that reads and writes nothing; true when the database answered. */
  async answers(): Promise<boolean> {
    try {
      await query(this.#knex, "SELECT 1 AS one");
      return true;
    } catch {
      return false;
    }
  }
}
