import type { SupervisorCoordinator } from "../coordination/supervisor.ts";
import { type OpenOptions, type Outbox, openOutbox } from "../outbox.ts";
import type { OutboxEvent } from "../protocol/events.ts";
import type { Connected, TestDatabase } from "./database.ts";

export type ProcessKind = "main" | "agent" | "supervisor" | "consumer";

/** One process of the test's world: an outbox of its own, and what runs on it. */
export class TestProcess {
  readonly id: string;
  readonly kind: ProcessKind;
  readonly outbox: Outbox;
  readonly connected: Connected;
  /** Locks that `withLock` holds at the moment. */
  readonly keeps = new Set<string>();
  readonly #stop: { stop(options?: { deadlineMs?: number }): Promise<unknown> }[] = [];
  readonly #unobserve: () => void;
  supervisor: SupervisorCoordinator | undefined;

  private constructor(
    id: string,
    kind: ProcessKind,
    outbox: Outbox,
    connected: Connected,
    observe: (events: readonly OutboxEvent[]) => void,
  ) {
    this.id = id;
    this.kind = kind;
    this.outbox = outbox;
    this.connected = connected;
    this.#unobserve = outbox.observe(observe);
    this.#noteLocks();
  }

  /** They are renewed in real time; by the virtual clock they last as long as their process lives. */
  #noteLocks(): void {
    const { locks } = this.outbox;
    const withLock = locks.withLock.bind(locks);
    locks.withLock = (resources, options, run) =>
      withLock(resources, options, async (context) => {
        const held = typeof resources === "string" ? [resources] : resources;
        for (const resource of held) this.keeps.add(resource);
        try {
          return await run(context);
        } finally {
          for (const resource of held) this.keeps.delete(resource);
        }
      });
  }

  static async open(
    id: string,
    kind: ProcessKind,
    {
      database,
      options,
      observe,
    }: {
      database: TestDatabase;
      options: Omit<OpenOptions, "database" | "migrate">;
      observe: (events: readonly OutboxEvent[]) => void;
    },
  ): Promise<TestProcess> {
    const connected = database.process(id);
    const outbox = await openOutbox({
      fileLogging: false,
      ...options,
      prefix: database.prefix,
      database: connected.knex,
    });
    return new TestProcess(id, kind, outbox, connected, observe);
  }

  get alive(): boolean {
    return this.connected.state === "alive";
  }

  /** Ended by `close`, and by `kill` without a chance to say anything. */
  runs(running: { stop(options?: { deadlineMs?: number }): Promise<unknown> }): void {
    this.#stop.push(running);
  }

  async kill(): Promise<void> {
    this.#unobserve();
    await this.connected.kill();
    // Nothing of it reaches the database. Handlers that listen to their signal end.
    for (const running of this.#stop) void running.stop({ deadlineMs: 0 }).catch(() => undefined);
    void this.outbox.close().catch(() => undefined);
  }

  async close(): Promise<void> {
    if (this.connected.state === "dead") return;
    this.connected.thaw();
    await Promise.all(this.#stop.map((running) => running.stop({ deadlineMs: 100 })));
    await this.outbox.close();
    this.#unobserve();
  }
}
