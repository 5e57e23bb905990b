// knex's command line looks for knexfile.js before knexfile.ts, and Node 20 cannot import TypeScript by
// itself: without this file `npx knex migrate:latest` would need NODE_OPTIONS and `--knexfile`.
import { register } from "tsx/esm/api";

register();
export default (await import("./knexfile.ts")).default;
