/** What every scenario is: a story of a few agents on one outbox, told while it happens. */
import type { Outbox, SupervisorCoordinator } from "../../lib/index.ts";

export interface Stage {
  readonly outbox: Outbox;
  /** Tells what an agent does, while it does it. */
  say(agentId: string, words: string): void;
}

export interface Scenario<Result extends object = object> {
  /** What `--scenario` takes. */
  readonly name: string;
  /** One line. */
  readonly title: string;
  /** Plays it, and returns what came of it. Leaves nothing running. */
  play(stage: Stage): Promise<Result>;
}

type Handlers = Parameters<Outbox["runAgent"]>[0]["tasks"];

/** The agents and supervisors of one scenario: they end with it. */
export class Cast {
  readonly #stage: Stage;
  readonly #playing: { stop(options?: { deadlineMs?: number }): Promise<unknown> }[] = [];

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  /** A supervisor that looks for work all the time. */
  supervisor(supervisorId: string): SupervisorCoordinator {
    const supervisor = this.#stage.outbox.supervisor(supervisorId, { sweepIntervalMs: 100 });
    supervisor.start({ intervalMs: 50 });
    this.#playing.push(supervisor);
    return supervisor;
  }

  async agent(
    agentId: string,
    tasks: Handlers,
    more: Omit<Parameters<Outbox["runAgent"]>[0], "agentId" | "tasks"> = {},
  ): Promise<void> {
    this.#playing.push(await this.#stage.outbox.runAgent({ agentId, tasks, ...more }));
  }

  /** Works a mailbox until the scenario is over. */
  consumer(
    agentId: string,
    handler: Parameters<Outbox["queue"]["work"]>[1],
    options?: Parameters<Outbox["queue"]["work"]>[2],
  ): void {
    this.#playing.push(this.#stage.outbox.queue.work(agentId, handler, options));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#playing.map((one) => one.stop({ deadlineMs: 1_000 })));
  }
}

/** Looks until it finds something. */
export async function until<T>(look: () => Promise<T | undefined | false | null>): Promise<T> {
  const deadline = performance.now() + 30_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (performance.now() > deadline)
      throw new Error("the scenario did not come to its end in 30 s");
    await new Promise((done) => setTimeout(done, 10));
  }
}
