import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { place } from "./place.ts";
import { type Cell, markdown, summary } from "./report.ts";
import type { Bench } from "./run.ts";
import type { Opener, Subject } from "./subject.ts";
import { agentOutbox } from "./subjects/agent-outbox.ts";
import { graphileWorker } from "./subjects/graphile-worker.ts";
import { pgBoss } from "./subjects/pg-boss.ts";
import { rawPostgres } from "./subjects/raw-postgres.ts";
import { liteque, plainjob, rawSqlite } from "./subjects/sqlite-peers.ts";
import { WORKLOADS } from "./workloads.ts";

const OPENERS: Record<"postgres" | "sqlite", Record<string, Opener>> = {
  postgres: {
    "agent-outbox": agentOutbox,
    "graphile-worker": graphileWorker,
    "pg-boss": pgBoss,
    raw: rawPostgres,
  },
  sqlite: { "agent-outbox": agentOutbox, plainjob, liteque, raw: rawSqlite },
};

const firstLine = (error: unknown) => String((error as Error).message).split("\n")[0];

/** The queue beside its peers. */
export const queueBench: Bench = async ({ databases, rounds, quick, postgres, machine, say }) => {
  const folder = mkdtempSync(join(tmpdir(), "agent-outbox-bench-"));
  const cells: Cell[] = [];
  try {
    for (const database of databases) {
      await using at = await place(database, join(folder, database), postgres);
      const subjects: Subject[] = [];
      for (const [name, open] of Object.entries(OPENERS[database])) {
        try {
          subjects.push(await open(await at.empty(name)));
        } catch (error) {
          say(`${name} does not run here: ${firstLine(error)}`);
        }
      }
      // Interleaved: whatever else the machine does meets all alike.
      for (let round = 0; round <= rounds; round++) {
        for (const workload of WORKLOADS) {
          for (const subject of [...subjects]) {
            let rate: number;
            try {
              rate = await workload.run(subject, quick ? 0.2 : 1);
            } catch (error) {
              // A peer that fails is told of, and measured no further; ours must not fail.
              if (subject.name === "agent-outbox") throw error;
              say(`${subject.name} failed at ${workload.title}: ${firstLine(error)}`);
              subjects.splice(subjects.indexOf(subject), 1);
              continue;
            }
            // The first round warms up connections, plans and the just-in-time compiler.
            if (round === 0) continue;
            say(
              `${database}, round ${round} of ${rounds}: ${workload.title}: ${subject.name} ${Math.round(rate)}/s`,
            );
            cells.push({ database, workload: workload.title, subject: subject.name, rate });
          }
        }
      }
      for (const subject of subjects) await subject.close();
      for (const { name, settings } of subjects) cells.push({ database, subject: name, settings });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }

  const result = { machine, rounds, ...summary(cells) };
  return { result, text: markdown(result) };
};
