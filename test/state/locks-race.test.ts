import { setTimeout as sleep } from "node:timers/promises";
import type { Knex } from "knex";
import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";

const TTL_MS = 600;

/**
 * The database itself writes down who takes the lock, who lets go of it, and until when each may have it. Not on SQL
 * Server, where a table with triggers refuses OUTPUT without INTO.
 */
async function keepJournal(knex: Knex, dialect: string): Promise<void> {
  await knex.schema.createTable("lock_journal", (table) => {
    table.increments("id");
    table.string("owner");
    table.bigInteger("token");
    table.bigInteger("locked_at");
    table.bigInteger("expires_at");
  });
  const write =
    "INSERT INTO lock_journal (owner, token, locked_at, expires_at) VALUES (NEW.owner_id, NEW.fencing_token, NEW.locked_at, NEW.expires_at);";
  if (dialect === "sqlite") {
    for (const event of ["INSERT", "UPDATE"]) {
      await knex.raw(
        `CREATE TRIGGER lock_${event} AFTER ${event} ON outbox_locks BEGIN ${write} END`,
      );
    }
  } else if (dialect === "postgres") {
    await knex.raw(
      `CREATE FUNCTION write_lock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${write} RETURN NEW; END $$`,
    );
    await knex.raw(
      "CREATE TRIGGER lock_journal AFTER INSERT OR UPDATE ON outbox_locks FOR EACH ROW EXECUTE FUNCTION write_lock()",
    );
  }
}

/** Never held twice at a time, and the tokens of the owners strictly grow. Returns how many held it. */
async function checkJournal(knex: Knex): Promise<number> {
  const rows = await knex("lock_journal").orderBy("id");
  let token = 0;
  let until = 0;
  let holdings = 0;
  for (const row of rows) {
    const what = JSON.stringify({ token, until, row });
    expect(Number(row.token), what).toBeGreaterThanOrEqual(token);
    if (Number(row.token) > token) {
      // A new owner: the one before had let go, or its time had passed.
      expect(Number(row.locked_at), what).toBeGreaterThanOrEqual(until);
      holdings++;
    }
    token = Number(row.token);
    until = Number(row.expires_at);
  }
  return holdings;
}

eachDatabase("locks under kills and freezes", (database) => {
  it("are never held twice, and what is written under them is written in the order of the tokens", async () => {
    const knex = database.knex();
    await knex.schema.createTable("written", (table) => {
      table.increments("id");
      table.bigInteger("token");
      table.string("owner");
    });
    await keepJournal(knex, database.dialect);
    const start = (name: string) =>
      spawnScript("test/state/programs/locker.ts", [database.url(), name, String(TTL_MS)]);
    const crew = ["a", "b", "c", "d"].map(start);
    await Promise.all(crew.map((one) => one.message()));
    const written = async () => {
      const [row] = await knex("written").count({ n: "*" });
      return Number((row as { n: unknown }).n);
    };
    /** Freezes or kills whoever has the lock now, so that it does not just wait. */
    const holder = async () => {
      const row = await until(() =>
        knex("outbox_locks").where({ resource_id: "shared" }).whereNotNull("owner_id").first(),
      );
      return "abcd".indexOf(String(row.owner_id)[0] ?? "");
    };
    for (let round = 0; round < 6; round++) {
      const before = await written();
      const n = await holder();
      const victim = crew[n];
      if (round % 2 === 0) {
        victim?.kill("SIGSTOP");
        // Longer than its time: somebody else takes over, and it must find that out.
        await sleep(TTL_MS * 2);
        victim?.kill("SIGCONT");
      } else {
        victim?.kill("SIGKILL");
        await victim?.exited;
        crew[n] = start(`${"abcd"[n]}-${round}`);
      }
      await until(async () => (await written()) > before);
    }
    for (const one of crew) one.kill("SIGKILL");
    await Promise.all(crew.map(({ exited }) => exited));
    const tokens = (await knex("written").orderBy("id")).map(({ token }) => Number(token));
    expect(tokens).toEqual([...tokens].sort((a, b) => a - b));
    expect(new Set(tokens).size).toBeGreaterThan(6);
    if (database.dialect !== "mssql") {
      expect(await checkJournal(knex)).toBeGreaterThanOrEqual(new Set(tokens).size);
    }
  });
});
