import newKnex, { type Knex } from "knex";
import type { Client } from "pg";
import { expect, it, onTestFinished } from "vitest";
import { VacuumPace } from "../../lib/queue/upkeep/vacuum.ts";
import { connect, knexConfig } from "../../lib/store/connect.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { migrate } from "../../lib/store/migrate.ts";
import { type TableState, vacuumingOf } from "../../lib/store/vacuum.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";

/** Enough also where the statistics hear of the deletion first, and take the rows for alive. */
const MANY = 21_000;
const EVERY_MS = 1_500;
/** Vacuums in a row that may free nothing before they become rarer. */
const PATIENT = 4;

/** Only what these tests do is to be seen in the statistics. */
async function alone(knex: Knex, table: string): Promise<void> {
  await knex.raw(`ALTER TABLE ${table} SET (autovacuum_enabled = off)`);
}

interface Found {
  dead: number;
  vacuums: number;
  bytes: number;
}

async function found(knex: Knex, table = "outbox_messages"): Promise<Found> {
  const { rows } = await knex.raw(
    "SELECT n_dead_tup AS dead, vacuum_count AS vacuums, pg_relation_size(relid) AS bytes FROM pg_stat_user_tables WHERE relid = to_regclass(?)",
    [table],
  );
  const { dead, vacuums, bytes } = rows[0];
  return { dead: Number(dead), vacuums: Number(vacuums), bytes: Number(bytes) };
}

/** Deletes all messages, and waits until the statistics tell of it. */
async function finish(knex: Knex, table = "outbox_messages"): Promise<void> {
  const { dead } = await found(knex, table);
  const gone = await knex.transaction(async (trx) => {
    const count = await trx(table).del();
    await trx.raw(
      "SELECT CASE WHEN x.f IS NOT NULL THEN pg_stat_force_next_flush() END FROM (SELECT to_regproc('pg_stat_force_next_flush') AS f) x",
    );
    return count;
  });
  await until(async () => (await found(knex, table)).dead >= dead + gone);
}

const state = (rest: Partial<TableState> = {}): TableState => ({
  ...{ table: "t", dead: 50_000, live: 0, changes: 50_000, vacuums: 0, vacuumedMs: null },
  ...{ free: true, ...rest },
});

eachDatabase("the vacuum of upkeep", (database) => {
  const onPostgres = it.skipIf(database.dialect !== "postgres");
  const many = (to = mailbox()) => Array.from({ length: MANY }, (_, n) => note(to, { n }));

  it("does nothing where nothing is dead", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessage(note("a"));
    for (let n = 0; n < 3; n++) {
      expect(await queue.maintain()).toMatchObject({ vacuumed: 0, failed: [], more: false });
    }
    if (database.dialect === "postgres") expect(await found(knex)).toMatchObject({ vacuums: 0 });
  });

  onPostgres("makes the place of finished messages free for new ones", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await alone(knex, "outbox_messages");
    await queue.sendMessages(many());
    const { bytes } = await found(knex);
    await finish(knex);
    expect(await queue.maintain()).toMatchObject({ vacuumed: 1, failed: [], more: false });
    expect(await found(knex)).toMatchObject({ dead: 0, vacuums: 1 });
    expect((await queue.maintain()).vacuumed).toBe(0);
    await queue.sendMessages(many());
    expect((await found(knex)).bytes).toBeLessThanOrEqual(bytes * 1.05);
  });

  onPostgres("is taken by a worker", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await alone(knex, "outbox_messages");
    await queue.sendMessages(many("elsewhere"));
    await finish(knex);
    const worker = queue.work(mailbox(), () => undefined);
    await until(async () => (await found(knex)).vacuums === 1);
    await worker.stop();
  });

  onPostgres("can be switched off", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex, { vacuum: false });
    await alone(knex, "outbox_messages");
    await queue.sendMessages(many());
    await finish(knex);
    expect(await queue.maintain()).toMatchObject({ vacuumed: 0, failed: [] });
    expect(await found(knex)).toMatchObject({ vacuums: 0 });
  });

  onPostgres("leaves a table to who holds it, and to the first of many", async () => {
    const { knex } = await database.fresh();
    const queues = Array.from({ length: 10 }, () => watched(knex).queue);
    await alone(knex, "outbox_messages");
    await queues[0]?.sendMessages(many());
    await finish(knex);
    await knex.transaction(async (trx) => {
      await trx.raw("LOCK TABLE outbox_messages IN SHARE UPDATE EXCLUSIVE MODE");
      expect(await queues[0]?.maintain()).toMatchObject({ vacuumed: 0, failed: [] });
      // Whoever did not see the lock in time does not wait for it either.
      const vacuuming = vacuumingOf(knex, dialectFor("postgres", "outbox_"), "outbox_");
      await vacuuming?.vacuum("outbox_messages");
    });
    expect(await found(knex)).toMatchObject({ vacuums: 0 });
    const reports = await Promise.all(queues.map((queue) => queue.maintain()));
    expect(reports.flatMap(({ failed }) => failed)).toEqual([]);
    expect((await found(knex)).dead).toBeLessThan(MANY / 10);
  });

  onPostgres("is not tried by an account that may not, until it may", async () => {
    const { knex, url } = await database.fresh();
    await alone(knex, "outbox_messages");
    await watched(knex).queue.sendMessages(many());
    await finish(knex);
    const role = new URL(url).pathname.slice(1);
    await knex.raw(`CREATE ROLE ${role}`);
    await knex.raw(
      `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ${role}`,
    );
    const notices: unknown[] = [];
    const config = knexConfig(url);
    const guest = newKnex({
      ...config,
      pool: {
        ...config.pool,
        afterCreate: (connection: Client, done: (error: Error | null) => void) => {
          connection.on("notice", (notice) => notices.push(notice));
          void connection.query(`SET ROLE ${role}`, done);
        },
      },
    });
    onTestFinished(async () => {
      await guest.destroy();
      await knex.raw(`DROP OWNED BY ${role}`);
      await knex.raw(`DROP ROLE ${role}`);
    });
    const { queue } = watched(guest);
    expect(await queue.maintain()).toMatchObject({ vacuumed: 0, failed: [] });
    expect(await found(knex)).toMatchObject({ vacuums: 0 });
    expect(notices).toEqual([]);
    const owner = (await knex.raw("SELECT current_user AS name")).rows[0].name;
    await knex.raw(`GRANT ${owner} TO ${role}`);
    expect(await queue.maintain()).toMatchObject({ vacuumed: 1, failed: [] });
    expect(await found(knex)).toMatchObject({ vacuums: 1 });
  });

  onPostgres(
    "comes ever more rarely while an open transaction might see what is dead",
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex, { vacuum: false });
      await alone(knex, "outbox_messages");
      const vacuuming = vacuumingOf(knex, dialectFor("postgres", "outbox_"), "outbox_");
      if (vacuuming === undefined) throw new Error("PostgreSQL has a vacuum");
      const look = async () =>
        (await vacuuming.look()).find(({ table }) => table === "outbox_messages") as TableState;
      const pace = new VacuumPace();
      /** As if so much time had passed since the last vacuum. */
      const dueAfter = async (vacuumedMs: number) => pace.due({ ...(await look()), vacuumedMs }, 0);
      await queue.sendMessages(many());
      const report = await knex.transaction(undefined, { isolationLevel: "repeatable read" });
      await report("outbox_messages").first();
      await finish(knex);
      let everyMs = EVERY_MS;
      for (let n = 0; n < PATIENT + 3; n++) {
        if (n > PATIENT) everyMs *= 2;
        expect(await dueAfter(everyMs - 1)).toBe(false);
        expect(await dueAfter(everyMs)).toBe(true);
        await vacuuming.vacuum("outbox_messages");
        expect((await look()).dead).toBeGreaterThanOrEqual(MANY);
      }
      expect(await dueAfter(2 * everyMs - 1)).toBe(false);
      await report.commit();
      // Somebody else's vacuum tells as much as one of ours.
      await knex.raw("VACUUM outbox_messages");
      expect(await dueAfter(everyMs)).toBe(false);
      await queue.sendMessages(many());
      await finish(knex);
      expect(await dueAfter(EVERY_MS)).toBe(true);
    },
  );

  onPostgres("finds tables of any prefix by the search path", async () => {
    const { knex, url } = await database.unmigrated();
    await knex.raw("CREATE SCHEMA elsewhere");
    const other = new URL(url);
    other.searchParams.set("options", "-c search_path=elsewhere");
    const own = connect(other.href).knex;
    onTestFinished(() => own.destroy());
    await migrate(own, { prefix: "billing_" });
    await alone(own, "billing_messages");
    const { queue } = watched(own, { prefix: "billing_" });
    await queue.sendMessages(many());
    await finish(own, "billing_messages");
    expect(await queue.maintain()).toMatchObject({ vacuumed: 1, failed: [] });
    expect(await found(own, "billing_messages")).toMatchObject({ dead: 0, vacuums: 1 });
  });
});

it("a table is due when enough is dead by what lives, and some seconds after the last vacuum", () => {
  const due = (rest: Partial<TableState>) => new VacuumPace().due(state(rest), 0);
  expect(due({})).toBe(true);
  expect(due({ free: false })).toBe(false);
  expect(due({ dead: 9_999 })).toBe(false);
  expect(due({ live: 80_000 })).toBe(true);
  expect(due({ live: 80_001 })).toBe(false);
  expect(due({ vacuumedMs: EVERY_MS - 1 })).toBe(false);
  expect(due({ vacuumedMs: EVERY_MS })).toBe(true);
});

it("a vacuum that was tried, and failed, is not repeated at once", () => {
  const pace = new VacuumPace();
  const patient = Array.from({ length: PATIENT }, () => EVERY_MS);
  const waits = [...patient, 2 * EVERY_MS, 4 * EVERY_MS];
  let at = 0;
  for (const ms of waits) {
    expect(pace.due(state(), at)).toBe(true);
    pace.tried(at);
    pace.rest();
    expect(pace.due(state(), at + ms - 1)).toBe(false);
    at += ms;
  }
  expect(pace.due(state(), at)).toBe(true);
});

it("vacuums that keep up with what dies leave the pace as it is, those that free nothing slow it to minutes", () => {
  const pace = new VacuumPace();
  const round = (n: number, dead: number, vacuumedMs: number) =>
    pace.due(state({ dead, changes: 100_000 * n, vacuums: n, vacuumedMs }), 0);
  for (let n = 1; n < 20; n++) expect(round(n, 90_000, EVERY_MS)).toBe(true);
  let dead = 90_000;
  for (let n = 20; n < 40; n++) {
    dead += 100_000;
    round(n, dead, 0);
  }
  expect(round(39, dead, 299_999)).toBe(false);
  expect(round(39, dead, 300_000)).toBe(true);
  // The transaction has ended, and autovacuum was there.
  expect(round(40, 100_000, EVERY_MS)).toBe(true);
});
