// For knex's own command line: `npx knex migrate:latest` (see knexfile.js). The environment names the database and
// the prefix, as it does for `agent-outbox migrate`.
import { configFromEnv } from "./lib/config.ts";
import { knexConfig } from "./lib/store/connect.ts";

const { database, prefix } = configFromEnv();
export default knexConfig(database, { prefix });
