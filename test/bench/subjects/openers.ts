import type { Opener } from "../subject.ts";
import { agentOutbox } from "./agent-outbox.ts";
import { bullmqPostgres, bullmqRedis } from "./bullmq.ts";
import { graphileWorker } from "./graphile-worker.ts";
import { pgBoss, pgBossWork } from "./pg-boss.ts";
import { leasedPostgres, rawPostgres } from "./raw-postgres.ts";
import { leasedSqlite, rawSqlite } from "./raw-sqlite.ts";
import { liteque, plainjob } from "./sqlite-peers.ts";

/** Who is measured on which database, by a name that is also their database's. */
export const OPENERS: Record<"postgres" | "sqlite", Record<string, Opener>> = {
  postgres: {
    "agent-outbox": agentOutbox,
    "graphile-worker": graphileWorker,
    "pg-boss": pgBoss,
    "pg-boss-work": pgBossWork,
    bullmq: bullmqPostgres,
    "bullmq-redis": bullmqRedis,
    raw: rawPostgres,
    leased: leasedPostgres,
  },
  sqlite: { "agent-outbox": agentOutbox, plainjob, liteque, raw: rawSqlite, leased: leasedSqlite },
};
