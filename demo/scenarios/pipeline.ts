/**
 * SnapMap: a table of products goes from upload to the partner's SFTP server. What validation finds is a warning;
 * the server that does not answer within the agent's SLA is critical, and rolls back what was stored.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Workflow } from "../../lib/index.ts";
import { Cast, type Scenario } from "./scenario.ts";

/** Milliseconds aimed at and at most, a tenth of the protocol's, so that nobody has to wait half a minute. */
const SLA = {
  "upload-agent": [200, 500],
  "mapping-agent": [300, 1_000],
  "validation-agent": [500, 1_500],
  "transform-agent": [300, 1_000],
  "export-agent": [500, 1_500],
  "sftp-agent": [1_000, 3_000],
} as const;
type AgentId = keyof typeof SLA;

interface Product {
  readonly sku: string;
  readonly price: string;
}
const UPLOADED = [
  { ART_NR: "A-1", PREIS: "12,50" },
  { ART_NR: "A-2", PREIS: "" },
  { ART_NR: "A-3", PREIS: "7,00" },
];

export interface PipelineResult {
  readonly workflow: Workflow;
  /** What is still stored at the end: nothing. */
  readonly stored: readonly string[];
  /** Agents that took longer than they aim at. */
  readonly late: readonly string[];
  /** What an agent was told that talked past the hub. */
  readonly refused: string | null;
}

export const pipeline: Scenario<PipelineResult> = {
  name: "pipeline",
  title: "SnapMap: from upload to SFTP, with SLAs, a warning, and a failure that rolls back",
  async play(stage) {
    const { outbox, say } = stage;
    const stored = new Set<string>();
    const late: string[] = [];
    let refused: string | null = null;
    // Agents talk through the one in the middle only.
    await outbox.topology.set({ mode: "hub", hub: "main-agent" });
    const unobserve = outbox.observe((events) => {
      for (const event of events) {
        if (event.type !== "metric" || event.metric !== "sla_target_missed") continue;
        late.push(event.agentId);
        say(event.agentId, `took ${Math.round(event.value)} ms, longer than it aims at`);
      }
    });
    await using cast = new Cast(stage);
    cast.supervisor("main-agent");
    const agent = (agentId: AgentId, tasks: Parameters<Cast["agent"]>[1]) => {
      const [targetMs, maxMs] = SLA[agentId];
      const capabilities = [agentId.replace("-agent", "")];
      return cast.agent(agentId, tasks, { capabilities, card: { sla: { targetMs, maxMs } } });
    };

    await agent("upload-agent", {
      upload: () => {
        stored.add("upload/products.csv");
        say("upload-agent", `stored ${UPLOADED.length} rows`);
        return { file: "upload/products.csv", rows: UPLOADED };
      },
      discard_upload: ({ parameters }) => {
        stored.delete(String(parameters.file));
        say("upload-agent", `rollback: removed ${parameters.file}`);
      },
    });
    await agent("mapping-agent", {
      map_columns: ({ parameters }) => {
        const rows = parameters.rows as typeof UPLOADED;
        say("mapping-agent", "ART_NR → sku, PREIS → price");
        return rows.map(({ ART_NR, PREIS }) => ({ sku: ART_NR, price: PREIS }));
      },
    });
    await agent("validation-agent", {
      validate: ({ parameters }) => {
        const wrong = (parameters.products as Product[]).filter(({ price }) => price === "");
        say("validation-agent", `${wrong.length} of the rows has no price`);
        const message = `no price: ${wrong.map(({ sku }) => sku).join(", ")}`;
        if (wrong.length > 0) throw Object.assign(new Error(message), { retryable: false });
        return { valid: true };
      },
    });
    await agent("transform-agent", {
      transform: ({ parameters }) => {
        const good = (parameters.products as Product[]).filter(({ price }) => price !== "");
        say("transform-agent", `${good.length} products with a price, in cents`);
        return good.map(({ sku, price }) => ({ sku, cents: Number(price.replace(",", "")) }));
      },
    });
    await agent("export-agent", {
      export: async ({ parameters }) => {
        await sleep(600);
        stored.add("export/products.xml");
        say("export-agent", `wrote ${(parameters.products as unknown[]).length} products`);
        return { file: "export/products.xml" };
      },
      discard_export: ({ parameters }) => {
        stored.delete(String(parameters.file));
        say("export-agent", `rollback: removed ${parameters.file}`);
      },
    });
    await agent("sftp-agent", {
      deliver: async (_task, { signal }) => {
        await outbox.queue
          .sendMessage({
            ...{ fromAgent: "sftp-agent", toAgent: "export-agent", messageType: "FILE_TAKEN" },
            content: {},
          })
          .catch((error: Error) => {
            refused = error.message;
            say("sftp-agent", `past the hub: ${error.message}`);
          });
        say("sftp-agent", "connects, and waits for the partner's server");
        await sleep(60_000, undefined, { signal });
      },
    });

    const by = (agentId: AgentId) => ({ requiredCapabilities: [agentId.replace("-agent", "")] });
    const { workflowId } = await outbox.workflows.start({
      workflowType: "snapmap_pipeline",
      supervisorId: "main-agent",
      steps: [
        {
          stepId: "upload",
          taskType: "upload",
          ...by("upload-agent"),
          compensation: {
            taskType: "discard_upload",
            ...by("upload-agent"),
            inputs: { file: "$.steps.upload.result.file" },
          },
        },
        {
          stepId: "map",
          taskType: "map_columns",
          ...by("mapping-agent"),
          inputs: { rows: "$.steps.upload.result.rows" },
        },
        {
          stepId: "validate",
          taskType: "validate",
          ...by("validation-agent"),
          inputs: { products: "$.steps.map.result" },
          severity: "warning",
          maxAssignments: 1,
        },
        {
          stepId: "transform",
          taskType: "transform",
          ...by("transform-agent"),
          inputs: { products: "$.steps.map.result" },
        },
        {
          stepId: "export",
          taskType: "export",
          ...by("export-agent"),
          inputs: { products: "$.steps.transform.result" },
          compensation: {
            taskType: "discard_export",
            ...by("export-agent"),
            inputs: { file: "$.steps.export.result.file" },
          },
        },
        {
          stepId: "deliver",
          taskType: "deliver",
          ...by("sftp-agent"),
          inputs: { file: "$.steps.export.result.file" },
          maxAssignments: 1,
        },
      ],
    });
    const workflow = await outbox.workflows.wait(workflowId, { timeoutMs: 30_000 });
    unobserve();
    await outbox.topology.set(null);
    const why = workflow.failure === null ? "" : `: ${workflow.failure.message}`;
    say("main-agent", `the pipeline is ${workflow.state}${why}`);
    return { workflow, stored: [...stored], late, refused };
  },
};
