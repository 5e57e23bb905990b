import { setTimeout as sleep } from "node:timers/promises";
import { createTestOutbox } from "../../../lib/testing/index.ts";

/** Longer than a worker waits before it looks for schedules. */
const LOOKED_MS = 400;

/** An agent crashes while its statements are under way: they are never answered. */
const harness = await createTestOutbox();
await harness.agent({ agentId: "a", tasks: { t: () => null } });
harness.freezeAgent("a");
await sleep(LOOKED_MS);
await harness.crashAgent("a");
await harness.close();
process.send?.({ closed: true });
