import { setTimeout as sleep } from "node:timers/promises";
import { given, noMore } from "../../protocol/given.ts";
import {
  type Maintenance,
  type MaintenanceInput,
  maintenanceSchema,
  type ReadyInput,
  readySchema,
} from "../../protocol/system.ts";
import { MessagePriority, MessageType } from "../../protocol/types.ts";
import { id, parse } from "../../protocol/validate.ts";
import type { TxOption } from "../../queue/claimed.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { Db } from "../../store/dialect.ts";
import { joined } from "../../store/identity.ts";
import type { SchemaCheck } from "../../store/migrate.ts";
import type { Acknowledged, SystemStore } from "../../store/system.ts";
import { broadcast } from "../broadcast.ts";
import type { Parts, Tx } from "../parts.ts";

/** Claims that were under way when the maintenance began are over by then, unless the database is very slow. */
const SETTLE_MS = 1_000;
const MOST_LISTED = 1_000;

export interface SystemStatus {
  readonly mode: "normal" | "read_only";
  /** What is held back, since when, why and by whom; null in normal mode. */
  readonly maintenance: Maintenance | null;
  /** Agents that have acknowledged it, and those that are there and have not; 1,000 of each at most. */
  readonly acknowledged: readonly Acknowledged[];
  readonly waiting: readonly string[];
}

/**
 * Maintenance: what writes is stored and handed to nobody, in any mailbox, until the system is ready again; what
 * reads goes on. It stands in the database, so it holds for every process, also those that start later.
 */
export class SystemModes {
  readonly #knex: Db;
  readonly #parts: Parts;
  readonly #schema: SchemaCheck;
  readonly #store: SystemStore;

  /** @internal Made by Coordination. */
  constructor(knex: Db, parts: Parts, schema: SchemaCheck, store: SystemStore) {
    this.#knex = knex;
    this.#parts = parts;
    this.#schema = schema;
    this.#store = store;
  }

  /**
   * Holds back what writes (tasks and commands, unless told otherwise) and tells all agents, in one commit. Resolves
   * a second later: from then on no claim finds any of it, also of processes that have not heard of it. What was
   * handed out before may finish, also where a claim began before and is answered only now. In maintenance already,
   * it changes nothing.
   *
   * @throws ValidationFailed
   */
  async enterMaintenance(options: MaintenanceInput): Promise<SystemStatus> {
    const {
      reason,
      by = "operator",
      writeKinds,
      writeTypes,
      announce,
    } = parse(maintenanceSchema, options, "options");
    await this.#schema.ensure();
    await this.#parts.tasks.transaction(async (trx) => {
      const wanted = { reason, by, kinds: writeKinds, types: writeTypes };
      const { held, entered } = await this.#store.enter(trx, wanted);
      if (entered && announce) {
        await this.#announce(trx, MessageType.SYSTEM_MAINTENANCE, by, {
          since: held.since,
          reason,
          by,
          mode: "read_only",
          write_kinds: writeKinds,
          write_types: writeTypes,
        });
      }
      if (entered) this.#tell(trx, "system_maintenance", by, { reason });
    });
    this.#parts.queue.forgetSettings();
    // Also where somebody else entered it: a moment ago, for all that is known.
    await sleep(SETTLE_MS);
    return this.status();
  }

  /** Hands out again what was held back, in its old order, and tells all agents. In normal mode it changes nothing. */
  async ready(options: ReadyInput = {}): Promise<SystemStatus> {
    const { by = "operator", announce } = parse(readySchema, options, "options");
    await this.#schema.ensure();
    await this.#parts.tasks.transaction(async (trx) => {
      const before = await this.#store.leave(trx);
      if (before === null) return;
      if (announce) {
        await this.#announce(trx, MessageType.SYSTEM_READY, by, { since: before.since, by });
      }
      this.#tell(trx, "system_ready", by, { since: before.since });
    });
    await this.#store.ungate();
    this.#parts.queue.forgetSettings();
    return this.status();
  }

  /** The mode, and which agents have acknowledged it. */
  async status(): Promise<SystemStatus> {
    await this.#schema.ensure();
    const maintenance = await this.#store.current();
    if (maintenance === null) {
      return { mode: "normal", maintenance: null, acknowledged: [], waiting: [] };
    }
    const { known, waiting } = await this.#store.census(maintenance.since, MOST_LISTED);
    return { mode: "read_only", maintenance, acknowledged: known, waiting };
  }

  /** Whether the system is in maintenance now. */
  async readOnly(): Promise<boolean> {
    await this.#schema.ensure();
    return (await this.#store.current()) !== null;
  }

  /**
   * Notes that an agent knows of the maintenance. An agent that runs does it by itself. False when there is none.
   */
  async acknowledge(agentId: string, options: TxOption = {}): Promise<boolean> {
    const { tx, ...rest } = given(options);
    noMore(rest);
    const agent = parse(id, agentId, "agentId");
    await this.#schema.ensure(tx);
    const db = joined(this.#knex, tx);
    const maintenance = await this.#store.current(db);
    if (maintenance === null) return false;
    await this.#store.acknowledge(db, maintenance.since, agent);
    return true;
  }

  async #announce(trx: Tx, messageType: string, by: string, content: object): Promise<void> {
    await broadcast(this.#parts, trx, {
      fromAgent: by,
      messageType,
      content,
      priority: MessagePriority.CRITICAL,
      telling: true,
    });
  }

  #tell(trx: Tx, event: string, agentId: string, data: Readonly<Record<string, unknown>>): void {
    const { observers } = this.#parts;
    if (!observers.active) return;
    afterCommit(trx, () =>
      observers.emit([{ type: "agent", event, agentId, at: Date.now(), data }]),
    );
  }
}
