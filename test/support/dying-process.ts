import { setTimeout as sleep } from "node:timers/promises";
import { Coordination } from "../../lib/coordination/coordination.ts";
import { SupervisorCoordinator } from "../../lib/coordination/supervisor.ts";
import { connect } from "../../lib/store/connect.ts";
import type { TestDatabase } from "./databases.ts";

/** How long a dead process is given to let go of what it has: it has nothing more to say. */
const LONGEST_CLOSE_MS = 500;

/** A process as far as the database can tell: connections of its own, and what coordinates on them. */
export interface DyingProcess {
  readonly coordination: Coordination;
  readonly boss: SupervisorCoordinator;
}

type Step = (process: DyingProcess) => Promise<unknown>;

interface DyingOptions {
  readonly supervisorId: string;
  /** A step that survives more statements than this has no end. */
  readonly mostStatements: number;
  /** Called after every death, and at the end: throws where the tables are not consistent. */
  check(): Promise<unknown>;
}

/** Kills a step at its first statement, then at its second, and so on, until it gets through; returns how many it has. */
export async function killedAtEachStatement(
  database: Pick<TestDatabase, "url">,
  { supervisorId, mostStatements, check }: DyingOptions,
  step: Step,
): Promise<number> {
  for (let n = 0; n < mostStatements; n++) {
    const lived = await dying(database, supervisorId, n, step);
    await check();
    if (lived) return n;
  }
  throw new Error("the step has no end");
}

/** Runs a step in connections of its own, which do nothing any more from the n-th statement on. True: it lived. */
async function dying(
  database: Pick<TestDatabase, "url">,
  supervisorId: string,
  n: number,
  step: Step,
): Promise<boolean> {
  const { knex } = connect(database.url(), { poolMax: 2 });
  const coordination = new Coordination(knex, { prefix: "outbox_" });
  await coordination.schema.ensure();
  let statements = 0;
  let died = false;
  knex.on("query", () => {
    if (statements++ < n) return;
    died = true;
    throw new Error("this process is dead");
  });
  const boss = new SupervisorCoordinator(supervisorId, knex, {
    coordination,
    taskRetentionMs: null,
  });
  try {
    await step({ coordination, boss });
  } catch (error) {
    if (!died) throw error;
  } finally {
    await Promise.race([coordination.parts.queue.close(), sleep(LONGEST_CLOSE_MS)]);
    // What it had begun is rolled back by the server, as when a process is gone.
    await Promise.race([knex.destroy(), sleep(LONGEST_CLOSE_MS)]);
  }
  return !died;
}
