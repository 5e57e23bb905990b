import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Knex } from "knex";
import { onTestFinished } from "vitest";
import { MessageQueueManager } from "../../lib/index.ts";
import { type Script, spawnScript } from "../support/processes.ts";
import { check } from "./checker.ts";
import { createEffects, finalState, readEffects } from "./final-state.ts";
import { createJournal, readJournal } from "./journal.ts";
import { Random } from "./random.ts";
import { BUCKET, LIMITS, MAILBOXES, setLimits } from "./recorded.ts";
import { FileLog, Recorder, readLog } from "./recorder.ts";
import type { History, Violation } from "./types.ts";
import { type Mailbox, type Pace, pollOnce } from "./workload.ts";

export type Role = "sender" | "poller" | "worker" | "operator";

/** What a client process is told. */
export interface ClientTask {
  readonly role: Role;
  readonly url: string;
  readonly name: string;
  readonly seed: number;
  readonly log: string;
  readonly mailboxes: readonly Mailbox[];
  readonly pace: Pace;
  readonly poolMax: number;
  /** A sender's longest pause between two sends. */
  readonly pauseMs: number;
}

export interface Client {
  readonly role: Role;
  readonly script: Script;
}

export interface Outcome {
  readonly violations: readonly Violation[];
  readonly messages: number;
  readonly changes: number;
  /** How often each error was met, by its words. */
  readonly errors: Readonly<Record<string, number>>;
}

/** A crew of client processes on one database, and the faults that befall them. */
export class Stage {
  readonly random: Random;
  readonly pace: Pace;
  readonly clients: Client[] = [];
  /** Clients that ended without being told or killed, with their last words. */
  readonly crashed: string[] = [];
  readonly #knex: Knex;
  readonly #folder: string;
  #names = 0;
  /** Up to when, by the database's clock, the rate was as it was set first. */
  #metered: number | undefined;

  constructor(knex: Knex, seed: number) {
    this.#knex = knex;
    this.random = new Random(seed);
    // A SQL Server may be far away.
    const far = knex.client.dialect === "mssql";
    this.pace = { leaseMs: far ? 3_000 : 400, delayMs: 100 };
    this.#folder = mkdtempSync(join(tmpdir(), "outbox-history-"));
    onTestFinished(() => rmSync(this.#folder, { recursive: true, force: true }));
  }

  async prepare(): Promise<void> {
    await createJournal(this.#knex);
    await createEffects(this.#knex);
    const queue = new MessageQueueManager(this.#knex);
    await setLimits(queue);
    await queue.close();
  }

  /** Starts a client; `clockMs` is how wrong its wall clock is. */
  async start(
    role: Role,
    url: string,
    options: { clockMs?: number; poolMax?: number; pauseMs?: number } = {},
  ): Promise<Client> {
    const name = `${role}${this.#names++}`;
    const { clockMs = 0, poolMax = 4, pauseMs = 20 } = options;
    const task: ClientTask = {
      ...{ role, url, name, poolMax, pauseMs, mailboxes: MAILBOXES, pace: this.pace },
      ...{ seed: this.random.int(0, 2 ** 31), log: join(this.#folder, `${name}.jsonl`) },
    };
    const script = spawnScript("test/history/programs/client.ts", [JSON.stringify(task)], {
      CLOCK_OFF_MS: String(clockMs),
    });
    const client = { role, script };
    this.clients.push(client);
    void script.exited.then(({ code, signal }) => {
      if (code !== 0 && signal !== "SIGKILL") this.crashed.push(`${name}: ${script.output()}`);
    });
    await script.message();
    return client;
  }

  async kill(client: Client): Promise<void> {
    this.clients.splice(this.clients.indexOf(client), 1);
    client.script.kill("SIGKILL");
    await client.script.exited;
  }

  /** Freezes a process for longer than its leases last. */
  async freeze(client: Client, ms = 2 * this.pace.leaseMs): Promise<void> {
    client.script.kill("SIGSTOP");
    await sleep(ms);
    client.script.kill("SIGCONT");
  }

  /** Stops everybody, works off what is left, and judges. `patienceMs`: how long everything may take to end. */
  async end(patienceMs = 45_000): Promise<Outcome> {
    for (const { script } of this.clients) script.send({ stop: true });
    const late = sleep(15_000, "late", { ref: false });
    for (const { script } of this.clients) {
      if ((await Promise.race([script.exited, late])) === "late") {
        this.crashed.push(`pid ${script.pid} does not stop: ${script.output()}`);
        script.kill("SIGKILL");
      }
    }
    const stuck = await this.#workOff(patienceMs);
    const history = await this.#history();
    const violations = check(history);
    if (stuck !== undefined) violations.push({ rule: "lost", what: stuck });
    for (const what of this.crashed) violations.push({ rule: "lost", what: `a client: ${what}` });
    return {
      violations,
      messages: new Set(history.final.map(({ seq }) => seq)).size,
      changes: history.journal?.length ?? 0,
      errors: errorsOf(history),
    };
  }

  /** Nothing may stay behind: whatever is live becomes claimable by itself. */
  async #workOff(patienceMs: number): Promise<string | undefined> {
    const queue = new MessageQueueManager(this.#knex);
    const log = new FileLog(join(this.#folder, `end-${randomBytes(2).toString("hex")}.jsonl`));
    const recorder = new Recorder(queue, "end", log);
    const deadline = performance.now() + patienceMs;
    try {
      await this.#endMetering(queue);
      for (;;) {
        let found = 0;
        for (const { name } of MAILBOXES) {
          found += await pollOnce(recorder, this.random, name, { leaseMs: 200, delayMs: 20 });
        }
        if (found > 0) continue;
        await queue.maintain();
        if ((await this.#left().first("seq")) === undefined) return undefined;
        if (performance.now() > deadline) return `stuck: ${await this.#stuck(queue)}`;
        await sleep(20);
      }
    } finally {
      await queue.close();
      log.close();
    }
  }

  /** Live messages; not those on their way to the dead letters, whose bearer may have died. */
  #left(): Knex.QueryBuilder {
    return this.#knex("outbox_messages").whereRaw("(worker_id IS NULL OR worker_id NOT LIKE '!%')");
  }

  /** From here on everything passes as fast as it can. */
  async #endMetering(queue: MessageQueueManager): Promise<void> {
    if (await this.#knex.schema.hasTable("history_journal")) {
      const [last] = await this.#knex("history_journal").max({ now: "now_ms" });
      this.#metered = Number(last?.now ?? 0);
    }
    await queue.limits.set("metered", {
      agentId: BUCKET.mailbox,
      rate: { amount: 1e9, perMs: 1_000 },
    });
  }

  /** What the queue itself says of those that stay behind, and their rows. */
  async #stuck(queue: MessageQueueManager): Promise<string> {
    const rows: { message_id: string }[] = await this.#left().orderBy(["state", "seq"]).limit(6);
    const told = await Promise.all(
      rows.map(async (row) => ({ row, why: await queue.why(row.message_id) })),
    );
    const mailboxes = await this.#knex("outbox_mailboxes");
    return JSON.stringify({ now: Date.now(), told, mailboxes }, null, 1);
  }

  async #history(): Promise<History> {
    const knex = this.#knex;
    return {
      entries: readdirSync(this.#folder)
        .filter((file) => file.endsWith(".jsonl"))
        .flatMap((file) => readLog(join(this.#folder, file))),
      final: await finalState(knex),
      journal: await readJournal(knex),
      effects: await readEffects(knex),
      limits: LIMITS,
      // A claimer may be frozen between taking tokens and leasing.
      buckets:
        this.#metered === undefined ? [] : [{ ...BUCKET, slackMs: 1_500, until: this.#metered }],
    };
  }
}

/** Without what differs each time: numbers and names. */
function errorsOf({ entries }: History): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const entry of entries) {
    if (entry.e !== "unknown") continue;
    const words = entry.error.replaceAll(/[\d.:]+/g, "#").slice(0, 90);
    counts[words] = (counts[words] ?? 0) + 1;
  }
  return counts;
}
