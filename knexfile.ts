// For knex's own command line: `npx knex migrate:latest` (see knexfile.mjs). DATABASE_URL names the database.
import { knexConfig } from "./lib/store/connect.ts";

export default knexConfig();
