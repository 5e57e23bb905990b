import { type MailboxSettingsInput, mailboxSettingsSchema } from "../../protocol/gates.ts";
import { portableChoice } from "../../protocol/retry.ts";
import { id, parse } from "../../protocol/validate.ts";
import type { Mailbox } from "../../store/gate-rows.ts";
import { GateSettings } from "../../store/gate-settings.ts";
import { GateStore } from "../../store/gates.ts";
import { transaction, translated } from "../../store/sql.ts";
import type { QueueCore } from "../core.ts";

/** What a mailbox is set to, and where its breaker stands. */
export type MailboxInfo = Omit<Mailbox, "gated" | "held" | "topology">;

/** The settings of mailboxes: for all processes, and changed while they run. */
export class Mailboxes {
  readonly #core: QueueCore;
  readonly #store: GateStore;
  readonly #settings: GateSettings;

  constructor(core: QueueCore) {
    this.#core = core;
    this.#store = new GateStore(core.knex, core.dialect, core.options.prefix);
    this.#settings = new GateSettings(core.knex, core.dialect, core.options.prefix);
  }

  /**
   * Changes the settings that are given and leaves the others; null takes one back to its default. Other processes
   * know within three seconds; what waits already is brought into the new order before this returns.
   */
  async set(agentId: string, settings: MailboxSettingsInput): Promise<MailboxInfo> {
    const agent = parse(id, agentId, "agentId");
    const changes = parse(mailboxSettingsSchema, settings, "settings");
    const own = this.#core.options.retryPolicies;
    if (typeof changes.retryPolicy === "string") {
      changes.retryPolicy = portableChoice(changes.retryPolicy, "settings.retryPolicy", own);
    }
    await this.#core.db();
    const columns = GateSettings.columns(changes);
    if (Object.keys(columns).length > 0) {
      await this.#settings.change(this.#core.knex, agent, columns);
    }
    if (changes.breaker !== undefined) await this.#settings.regate(agent);
    this.#core.gates.known.forget();
    this.#core.retries.forget();
    if (changes.agingMs !== undefined || changes.fair !== undefined) {
      await this.#settings.rerank(agent);
    }
    if (changes.keyLimit !== undefined) await this.#fitShares(agent);
    this.#core.signal(new Set([agent]));
    return this.get(agent);
  }

  async get(agentId: string): Promise<MailboxInfo> {
    const agent = parse(id, agentId, "agentId");
    const db = await this.#core.db();
    const found = await translated(this.#core.dialect, () => this.#store.mailbox(db, agent));
    return shown(found ?? { ...NOTHING, agentId: agent });
  }

  /** Mailboxes for which something was ever set, at most 1,000. */
  async list(): Promise<MailboxInfo[]> {
    await this.#core.db();
    return (await this.#store.mailboxes(1_000)).map(shown);
  }

  /** Lets as many of each concurrency key through as may be now; blocks what is too many. */
  async #fitShares(agentId: string): Promise<void> {
    const { dialect, knex } = this.#core;
    for (let after = ""; ; ) {
      const keys = await this.#settings.shares(agentId, after);
      if (keys.length === 0) return;
      for (const key of keys) {
        await translated(dialect, () =>
          transaction(dialect, knex, async (trx) => {
            await dialect.gates.lockKeys(trx, [key], true);
            await dialect.gates.closeKeys(trx, [key]);
            await dialect.gates.openKeys(trx, [key]);
          }),
        );
      }
      after = keys.at(-1)?.name ?? "";
    }
  }
}

function shown({ gated: _, held: _held, topology: _topology, ...info }: Mailbox): MailboxInfo {
  return info;
}

const NOTHING: Omit<Mailbox, "agentId"> = {
  pausedAt: null,
  pauseReason: null,
  keyLimit: null,
  onDeadLetter: null,
  agingMs: null,
  fair: false,
  maxDepth: null,
  retryPolicy: null,
  breaker: null,
  gated: null,
  held: null,
  topology: null,
};
