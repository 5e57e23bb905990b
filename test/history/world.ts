import { setTimeout as sleep } from "node:timers/promises";
import type { Knex } from "knex";
import { onTestFinished } from "vitest";
import { connect, migrate } from "../../lib/index.ts";
import { canOwnPostgres, ownPostgres, type TestDatabase } from "../support/databases.ts";
import { spawnScript } from "../support/processes.ts";
import { Line } from "./line.ts";
import type { Role, Stage } from "./stage.ts";

const HOUR_MS = 3_600_000;

export type Fault = (stage: Stage) => Promise<void>;

/** A database, how clients come to it, and what may befall them and it. */
export interface World {
  readonly knex: Knex;
  /** Each time another way: directly or through a line that can break. */
  url(): string;
  readonly faults: Readonly<Record<string, Fault>>;
}

/** An empty database of its own for one run; it goes with the test. */
export async function worldOf(database: TestDatabase): Promise<World> {
  if (database.dialect === "sqlite") return sqlite(database);
  if (database.dialect === "postgres") return postgres(database);
  const { url, knex } = await database.fresh();
  const direct = () => url;
  return { knex, url: direct, faults: processes(direct) };
}

const TARGETS: readonly Role[] = ["sender", "poller", "worker"];

function processes(url: () => string): Record<string, Fault> {
  const victim = (stage: Stage, role: Role) =>
    stage.random.pick(stage.clients.filter((client) => client.role === role));
  const each = (what: string, run: (stage: Stage, role: Role) => Promise<void>) =>
    Object.fromEntries(
      TARGETS.map((role) => [`${what} a ${role}`, (stage: Stage) => run(stage, role)]),
    );
  return {
    ...each("SIGKILL", async (stage, role) => {
      await stage.kill(victim(stage, role));
      await stage.start(role, url(), oddities(stage));
    }),
    ...each("SIGSTOP", (stage, role) => stage.freeze(victim(stage, role))),
  };
}

/** Some clients have a clock that is hours off, some a pool of one. */
export function oddities(stage: Stage): { clockMs: number; poolMax: number } {
  const { random } = stage;
  return {
    clockMs: random.chance(0.5) ? random.pick([-7, -1, 2, 30]) * HOUR_MS : 0,
    poolMax: random.chance(0.3) ? 1 : 4,
  };
}

async function sqlite(database: TestDatabase): Promise<World> {
  const { url, knex } = await database.fresh();
  const direct = () => url;
  return {
    knex,
    url: direct,
    faults: {
      ...processes(direct),
      "file locked": async (stage) => {
        const ms = String(stage.random.int(500, 2_000));
        const locker = spawnScript("test/history/programs/lock.ts", [url, ms]);
        await locker.message();
        await locker.exited;
      },
      "disk full": async (stage) => {
        // Per connection, so each client is told.
        const ms = stage.random.int(300, 1_000);
        for (const { script } of stage.clients) script.send({ fullForMs: ms });
        await sleep(ms);
      },
    },
  };
}

async function postgres(database: TestDatabase): Promise<World> {
  const server = canOwnPostgres ? await ownPostgres() : undefined;
  if (server !== undefined) onTestFinished(() => server.dispose());
  const direct = server?.url ?? (await database.fresh()).url;
  const { knex } = connect(direct);
  onTestFinished(() => knex.destroy());
  if (server !== undefined) await migrate(knex);
  const line = await Line.before(direct);
  onTestFinished(() => line.close());
  let turn = 0;
  const url = () => (turn++ % 3 === 0 ? direct : line.url(direct));
  const broken = (fault: "swallow" | "deaf") => async (stage: Stage) => {
    line.break(fault);
    await sleep(stage.random.int(300, 1_500));
    line.mend();
  };
  return {
    knex,
    url,
    faults: {
      ...processes(url),
      "backends terminated": async () => {
        await knex.raw(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
      },
      "line half-open": broken("swallow"),
      "answers lost": broken("deaf"),
      ...(server === undefined
        ? {}
        : {
            "server restarted": async () => {
              await server.stop();
              await server.start();
            },
            "server crashed": async () => {
              await server.kill();
              await server.start();
            },
          }),
    },
  };
}
