import type { Knex } from "knex";
import type { Db, Dialect, KeyRef, NewMessage } from "./dialect.ts";
import { int, intOrNull, query, type Row, transaction, translated } from "./sql.ts";

/** One statement takes at most this many rows: three parameters each, of SQL Server's 2,100. */
const STEP = 500;

/** How long a mailbox's messages need not be counted again while there is room for more. */
const COUNTED_MS = 1_000;

/** Counting a full mailbox of this depth again costs less than a millisecond, so it is done for every send. */
const DEPTH_PER_MS = 1_000;

/**
 * The receipt of a slot that counts as long as its message lives, whoever claims it. All others count while the
 * message bears their receipt.
 */
export const WHILE_IT_LIVES = -1;

/** A message that counts in the window between two agents. */
export type Member = Pick<NewMessage, "message_id" | "from_agent" | "to_agent">;

/** The key whose lock makes the senders of a window take turns. */
export function windowKey(to_agent: string, from_agent: string): KeyRef {
  return { to_agent, kind: "window", name: from_agent };
}

/** The key whose lock makes the senders to a mailbox of limited depth take turns. */
export function depthKey(to_agent: string): KeyRef {
  return { to_agent, kind: "depth", name: "" };
}

/** No id has a space in it, and neither has a limit's name. */
export function windowName({ to_agent, from_agent }: Pick<Member, "to_agent" | "from_agent">) {
  return `window ${to_agent} ${from_agent}`;
}

/** Counts what senders may not exceed. Every method is called under the lock of the key that it is about. */
export class FlowStore {
  readonly #dialect: Dialect;
  readonly #messages: string;
  readonly #mailboxes: string;
  readonly #slots: string;
  readonly #keys: string;

  constructor(dialect: Dialect, prefix: string) {
    this.#dialect = dialect;
    this.#messages = `${prefix}messages`;
    this.#mailboxes = `${prefix}mailboxes`;
    this.#slots = `${prefix}slots`;
    this.#keys = `${prefix}keys`;
  }

  /** How many messages of a window are unfinished. Those that ended are counted out only where it looks full. */
  async unfinished(trx: Db, name: string, window: number, wanted: number): Promise<number> {
    const taken = await this.#count(trx, trx(this.#slots).select("seq").where({ name }));
    if (taken + wanted <= window) return taken;
    const over = (await trx(`${this.#slots} as s`)
      .leftJoin(`${this.#messages} as m`, "m.seq", "s.seq")
      .where("s.name", name)
      .whereNull("m.seq")
      .select("s.seq")) as Row[];
    const seqs = over.map(({ seq }) => int(seq));
    for (let n = 0; n < seqs.length; n += STEP) {
      await trx(this.#slots)
        .where({ name })
        .whereIn("seq", seqs.slice(n, n + STEP))
        .del();
    }
    return taken - seqs.length;
  }

  /** Counts messages that were just stored in their windows. */
  async enter(trx: Db, members: readonly Member[]): Promise<void> {
    for (const from_agent of new Set(members.map((member) => member.from_agent))) {
      const own = members.filter((member) => member.from_agent === from_agent);
      const wanted = new Set(own.map(({ message_id, to_agent }) => `${message_id} ${to_agent}`));
      const ids = [...new Set(own.map(({ message_id }) => message_id))];
      const slots = new Map<string, { name: string; seq: number; receipt: number }>();
      for (let n = 0; n < ids.length; n += STEP) {
        const rows = (await trx(this.#messages)
          .select("seq", "message_id", "to_agent")
          .whereIn("message_id", ids.slice(n, n + STEP))
          .where({ from_agent })
          .orderBy("seq")) as Row[];
        for (const row of rows) {
          const to_agent = String(row.to_agent);
          const member = `${row.message_id} ${to_agent}`;
          if (!wanted.has(member)) continue;
          // The last one: an earlier one of the same id is of long ago, and counted where it was to be.
          const name = windowName({ to_agent, from_agent });
          slots.set(member, { name, seq: int(row.seq), receipt: WHILE_IT_LIVES });
        }
      }
      const rows = [...slots.values()];
      for (let n = 0; n < rows.length; n += STEP) {
        await trx(this.#slots).insert(rows.slice(n, n + STEP));
      }
    }
  }

  /**
   * How many more messages a mailbox has room for. It is worked out anew where the last count does not say that there
   * is room for `wanted`; that walks over `maxDepth` index entries of each state at most.
   */
  async room(trx: Db, agentId: string, maxDepth: number, wanted: number): Promise<Room> {
    const row = (await trx(this.#keys)
      .where(depthKey(agentId))
      .first("room", "room_at", trx.raw(`${this.#dialect.now} AS now`))) as Row | undefined;
    const now = int(row?.now);
    const known = intOrNull(row?.room);
    const age = now - (intOrNull(row?.room_at) ?? 0);
    if (known !== null && age >= 0 && age < COUNTED_MS) {
      // A great depth is not counted at every knock on the door of a full mailbox.
      if (known >= wanted || age < Math.floor(maxDepth / DEPTH_PER_MS)) {
        return { now, room: known, later: known, countedAt: now - age };
      }
    }
    const of = (condition: string, order: readonly string[], instants: readonly number[] = []) =>
      this.#count(
        trx,
        trx(this.#messages)
          .select("seq")
          .where({ to_agent: agentId })
          // A literal, so that the index of the state may be used.
          .whereRaw(condition, instants)
          .orderBy([...order])
          .limit(maxDepth + 1),
      );
    const ready = await of("state = 0", ["lane", "rank", "seq"]);
    const blocked = ready > maxDepth ? 0 : await of("state = 2", ["seq"]);
    const due = ready > maxDepth ? 0 : await of("state = 1 AND due_at <= ?", ["due_at"], [now]);
    const depth = ready + blocked + due;
    const room = Math.max(0, maxDepth - depth);
    // What falls due while this count holds must find its room.
    const soon = "state = 1 AND due_at > ? AND due_at <= ?";
    const coming = room === 0 ? 0 : await of(soon, ["due_at"], [now, now + COUNTED_MS]);
    return { now, room, later: Math.max(0, room - coming), countedAt: now };
  }

  /** Writes down how many more there is room for, as of the count of `countedAt`. */
  async noteRoom(trx: Db, agentId: string, room: number, countedAt: number): Promise<void> {
    await trx(this.#keys).where(depthKey(agentId)).update({ room, room_at: countedAt });
  }

  /** Whether a message that becomes available then may fall due while a count of now still holds. */
  static isSoon(availableInMs: number): boolean {
    return availableInMs <= COUNTED_MS;
  }

  async now(trx: Db): Promise<number> {
    const [row] = await query(trx, `SELECT ${this.#dialect.now} AS now`);
    return int(row?.now);
  }

  /** Forgets windows without messages, and mailboxes whose depth is limited no more; one in use is left alone. */
  async forget(knex: Knex, keys: readonly KeyRef[]): Promise<void> {
    await translated(this.#dialect, async () => {
      // Nobody waits for those that are in use: they are not even locked.
      const idle: KeyRef[] = [];
      for (const key of keys) if (await this.#idle(knex, key)) idle.push(key);
      if (idle.length === 0) return;
      await transaction(this.#dialect, knex, async (trx) => {
        for (const key of await this.#dialect.gates.lockKeys(trx, idle, false)) {
          const { to_agent, kind, name } = key;
          if (await this.#idle(trx, key)) {
            await trx(this.#keys).where({ to_agent, kind, name }).del();
          }
        }
      });
    });
  }

  async #idle(db: Db, { to_agent, kind, name }: KeyRef): Promise<boolean> {
    const used =
      kind === "window"
        ? db(this.#slots).where({ name: windowName({ to_agent, from_agent: name }) })
        : db(this.#mailboxes).where({ agent_id: to_agent }).whereNotNull("max_depth");
    return (await used.first(db.raw("1 AS one"))) === undefined;
  }

  async #count(trx: Db, found: Knex.QueryBuilder): Promise<number> {
    const row = (await trx.from(found.as("x")).count({ total: "*" }).first()) as unknown as Row;
    return int(row.total);
  }
}

/** What a mailbox of limited depth has room for. */
export interface Room {
  readonly now: number;
  /** Now. */
  readonly room: number;
  /** In all, as long as the count holds. */
  readonly later: number;
  readonly countedAt: number;
}
