/** A supervisor of workflows in a process of its own, until it is killed. */
import { openOutbox } from "../../../lib/index.ts";

const [url = ""] = process.argv.slice(2);
const outbox = await openOutbox({ database: url, poolMax: 3 });
outbox.supervisor("workflows", { sweepIntervalMs: 20 }).start({ intervalMs: 20 });
process.send?.({ ready: true });
