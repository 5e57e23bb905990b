/**
 * SentinelOps: an incident is verified, analysed, fixed and told. The steps are one workflow; the analysis is
 * handed over in its middle, by the tool that a language model would call.
 */
import { createTransferTool, type Handoff, type Workflow } from "../../lib/index.ts";
import { Cast, type Scenario } from "./scenario.ts";

const INCIDENT = {
  id: "inc-7",
  type: "suspicious_login",
  severity: "HIGH",
  affected_resources: ["vm-web-1", "vm-web-2"],
};
const STAKEHOLDERS = ["security-team", "service-owner"];

export interface IncidentResult {
  readonly workflow: Workflow;
  readonly handoffs: readonly Handoff[];
}

export const incident: Scenario<IncidentResult> = {
  name: "incident",
  title: "SentinelOps: an incident from its verification to the fix, with a handoff on the way",
  async play(stage) {
    const { outbox, say } = stage;
    await using cast = new Cast(stage);
    cast.supervisor("orchestrator-agent");

    await cast.agent(
      "detection-agent",
      {
        verify_incident: ({ parameters }) => {
          const { incident: found } = parameters as { incident: typeof INCIDENT };
          say(
            "detection-agent",
            `${found.id} is real: ${found.type} on ${found.affected_resources.join(", ")}`,
          );
          return { verified: true, indicators: ["198.51.100.7"] };
        },
      },
      { capabilities: ["detection"] },
    );

    // It gets the task, and its model decides that another agent knows better.
    await cast.agent(
      "triage-agent",
      {
        analyze_root_cause: async ({ parameters }, context) => {
          const tool = createTransferTool({ to: "analysis-agent", context });
          const answer = await tool.execute({
            incident_data: { id: INCIDENT.id, ...parameters },
            priority: "high",
            reason: "expertise_required",
            actions_required: ["find the root cause", "recommend fixes"],
          });
          say("triage-agent", `${tool.name}: ${answer.message}`);
        },
      },
      { capabilities: ["root_cause_analysis"] },
    );
    await cast.agent("analysis-agent", {
      analyze_root_cause: async ({ handoff, parameters }, { progress }) => {
        say("analysis-agent", `took over from ${handoff?.from} (${handoff?.reason})`);
        await progress(50, { looked_at: "login history" });
        const { verified } = parameters as { verified: { indicators: string[] } };
        return {
          root_cause: "a stolen password",
          confidence: 0.92,
          recommendations: verified.indicators.map((ip) => ({ action: "block_ip", ip })),
        };
      },
    });

    await cast.agent(
      "remediation-agent",
      {
        apply_fixes: ({ parameters }) => {
          const { recommendations } = parameters as {
            recommendations: { action: string; ip: string }[];
          };
          const applied = recommendations.map(({ action, ip }) => `${action} ${ip}`);
          say("remediation-agent", applied.join(", "));
          return { applied };
        },
      },
      { capabilities: ["remediation"] },
    );
    await cast.agent(
      "communication-agent",
      {
        notify_stakeholders: ({ taskId, parameters }, { tx }) =>
          // The messages and the step's completion are one commit: nobody is told twice, or not at all.
          tx(async (trx) => {
            await outbox.queue.sendMessage(
              {
                fromAgent: "communication-agent",
                toAgent: STAKEHOLDERS,
                messageType: "INCIDENT_RESOLVED",
                content: { incident_id: INCIDENT.id, ...parameters },
                taskId,
              },
              { tx: trx },
            );
            say("communication-agent", `told ${STAKEHOLDERS.join(" and ")}`);
            return { notified: STAKEHOLDERS.length };
          }),
      },
      { capabilities: ["communication"] },
    );

    const { workflowId } = await outbox.workflows.start({
      workflowType: "incident_response",
      supervisorId: "orchestrator-agent",
      contextId: INCIDENT.id,
      input: { incident: INCIDENT },
      steps: [
        {
          stepId: "verify",
          taskType: "verify_incident",
          requiredCapabilities: ["detection"],
          inputs: { incident: "$.input.incident" },
        },
        {
          stepId: "analyze",
          taskType: "analyze_root_cause",
          requiredCapabilities: ["root_cause_analysis"],
          inputs: { incident: "$.input.incident", verified: "$.steps.verify.result" },
        },
        {
          stepId: "fix",
          taskType: "apply_fixes",
          requiredCapabilities: ["remediation"],
          inputs: { recommendations: "$.steps.analyze.result.recommendations" },
          retry: { maxAttempts: 2, delayMs: 200 },
        },
        {
          stepId: "notify",
          taskType: "notify_stakeholders",
          requiredCapabilities: ["communication"],
          inputs: {
            root_cause: "$.steps.analyze.result.root_cause",
            applied: "$.steps.fix.result.applied",
          },
        },
      ],
    });
    const workflow = await outbox.workflows.wait(workflowId, { timeoutMs: 30_000 });
    say("orchestrator-agent", `${workflow.workflowType} is ${workflow.state}`);
    return { workflow, handoffs: await outbox.handoffs.list() };
  },
};
