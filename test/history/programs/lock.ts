import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../../lib/index.ts";

/** Holds the write lock of a SQLite file for so many milliseconds, then ends. */
const [url = "", ms = "0"] = process.argv.slice(2);
const { knex } = connect(url);
const trx = await knex.transaction();
process.send?.({ event: "locked" });
await sleep(Number(ms));
await trx.rollback();
await knex.destroy();
process.exit(0);
