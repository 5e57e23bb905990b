/**
 * The second act: the findings are to be published as a workflow. The editor hands its part over, the publisher
 * finds no place to publish in, and what was written is taken back, in reverse order.
 */
import { copyFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Outbox } from "../lib/index.ts";
import { type ChangeReport, requestFolder } from "./change-request.ts";
import { Cast } from "./scenarios/scenario.ts";
import { SUPERVISOR } from "./supervisor.ts";

export interface SecondAct {
  readonly workflow: {
    readonly workflowId: string;
    readonly state: string;
    readonly steps: readonly {
      readonly step: string;
      readonly agent: string | null;
      readonly state: string;
      readonly undone: boolean;
    }[];
    readonly failure: string | null;
    /** Of what the steps wrote, the files that are still there: none. */
    readonly left: readonly string[];
  };
  readonly handoff: {
    readonly from: string;
    readonly to: string;
    readonly state: string;
    readonly reason: string;
  } | null;
  /** What was asked for because of the failure. */
  readonly change: ChangeReport;
}

export interface SecondActOptions {
  /** Where the drafts are written. */
  readonly out: string;
  /** What the draft says. */
  readonly findings: object;
  note(line: string): void;
}

export async function secondAct(outbox: Outbox, options: SecondActOptions): Promise<SecondAct> {
  const { out, note } = options;
  const draft = join(out, "draft.json");
  const cover = join(out, "cover.md");
  await using cast = new Cast({ outbox, say: (agentId, words) => note(`${agentId} ${words}`) });

  await cast.agent(
    "eve",
    {
      draft: async () => {
        await writeFile(draft, JSON.stringify(options.findings, null, 2));
        return { file: draft };
      },
      withdraw_draft: () => rm(draft, { force: true }),
      // Covers are not for it: another agent gets the task, with what it needs to know.
      cover: async (_task, { handOff }) => {
        await handOff({
          to: "finn",
          reason: "expertise_required",
          actionsRequired: "write a cover",
        });
        note("eve hands the cover over to finn");
      },
    },
    { capabilities: ["drafting"] },
  );
  await cast.agent(
    "finn",
    {
      cover: async ({ handoff }) => {
        await writeFile(cover, `# Findings\n\nFor ${handoff?.from ?? "nobody"}.\n`);
        return { file: cover };
      },
      withdraw_cover: () => rm(cover, { force: true }),
    },
    { capabilities: ["covers"] },
  );
  await cast.agent(
    "gus",
    {
      publish: async () => {
        try {
          // Nobody made that folder: a step that fails for real.
          await copyFile(draft, join(out, "public", "findings.json"));
        } catch (error) {
          note("gus cannot publish: the plan is undone");
          const { code } = error as NodeJS.ErrnoException;
          const why = `there is no folder to publish in (${code})`;
          throw Object.assign(new Error(why, { cause: error }), { retryable: false });
        }
      },
    },
    { capabilities: ["publishing"] },
  );

  const { workflowId } = await outbox.workflows.start({
    workflowType: "publish_findings",
    supervisorId: SUPERVISOR,
    steps: [
      {
        stepId: "draft",
        taskType: "draft",
        requiredCapabilities: ["drafting"],
        compensation: { taskType: "withdraw_draft", requiredCapabilities: ["drafting"] },
      },
      {
        stepId: "cover",
        taskType: "cover",
        requiredCapabilities: ["drafting"],
        compensation: { taskType: "withdraw_cover", requiredCapabilities: ["covers"] },
      },
      { stepId: "publish", taskType: "publish", requiredCapabilities: ["publishing"] },
    ],
  });
  const workflow = await outbox.workflows.wait(workflowId, { timeoutMs: 30_000 });
  const [handoff] = await outbox.handoffs.list();
  const change = await requestFolder(outbox, out);
  note(`gus asks for a folder: ${change.requestId} is ${change.state}`);
  const agents = await Promise.all(
    workflow.steps.map(({ taskId }) => (taskId === null ? null : outbox.tasks.get(taskId))),
  );
  const written = ["draft.json", "cover.md"];
  return {
    workflow: {
      workflowId,
      state: workflow.state,
      steps: workflow.steps.map(({ stepId, state, compensation }, n) => ({
        step: stepId,
        agent: agents[n]?.agentId ?? null,
        state,
        undone: compensation?.state === "completed",
      })),
      failure: workflow.failure?.message ?? null,
      left: (await readdir(out)).filter((file) => written.includes(file)),
    },
    change,
    handoff:
      handoff === undefined
        ? null
        : { from: handoff.from, to: handoff.to, state: handoff.state, reason: handoff.reason },
  };
}
