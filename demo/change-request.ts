/** What the failure of the second act leads to: a change that both sides approve, make, test and complete. */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Outbox } from "../lib/index.ts";

export interface ChangeReport {
  readonly requestId: string;
  readonly state: string;
  /** The states that it went through. */
  readonly path: readonly string[];
}

export async function requestFolder({ changes }: Outbox, out: string): Promise<ChangeReport> {
  const requestId = await changes.request({
    requestingAgent: "gus",
    affectedModules: ["drafting", "publishing"],
    changeType: "integration_update",
    description: "a folder to publish in",
    module: "publishing",
  });
  await changes.review(requestId, { by: "supervisor" });
  await changes.approve(requestId, { module: "drafting", by: "eve" });
  await changes.approve(requestId, { module: "publishing", by: "gus" });
  await changes.implement(requestId, { by: "gus" });
  const folder = join(out, "public");
  await mkdir(folder);
  await changes.test(requestId, { by: "gus" });
  for (const [module, by] of [
    ["drafting", "eve"],
    ["publishing", "gus"],
  ] as const) {
    await changes.report(requestId, { module, by, passed: 1, failed: 0 });
  }
  const { state } = await changes.complete(requestId, { by: "supervisor" });
  // Whoever looks at the run afterwards is to find what was kept, and nothing else.
  await rm(folder, { recursive: true });
  const path = (await changes.history(requestId)).map(({ to }) => to);
  return { requestId, state, path };
}
