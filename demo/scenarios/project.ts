/**
 * A backend supervisor that is an agent itself: it manages projects, twenty at once, and splits an idea into tasks
 * for those who can do them. What belongs together waits: the release depends on both of its parts.
 */
import type { FinishedTask } from "../../lib/index.ts";
import { Cast, type Scenario } from "./scenario.ts";

const SUPERVISOR = "backend-supervisor-001";

export interface ProjectResult {
  readonly autonomous_tasks: readonly string[];
  readonly coordination_enabled: boolean;
  readonly ended: readonly FinishedTask[];
}

export const project: Scenario<ProjectResult> = {
  name: "project",
  title: "Backend supervisor: a project becomes tasks, and the release waits for its parts",
  async play(stage) {
    const { outbox, say } = stage;
    await using cast = new Cast(stage);
    await outbox.agents.registerAgent({
      agentId: SUPERVISOR,
      role: "supervisor",
      capabilities: ["project_management", "coordination"],
      maxConcurrentTasks: 20,
    });
    const supervisor = cast.supervisor(SUPERVISOR);
    const idea = "a score library";
    const requirements = ["api", "ui"];

    const parameters = { requirements };
    const parts = [
      ...(requirements.includes("api")
        ? [
            {
              taskId: "api",
              taskType: "api_development",
              description: `Develop API for ${idea}`,
              requiredCapabilities: ["python >= 3.8", "api_development"],
              parameters,
            },
          ]
        : []),
      ...(requirements.includes("ui")
        ? [
            {
              taskId: "ui",
              taskType: "ui_development",
              description: `Create UI for ${idea}`,
              requiredCapabilities: ["javascript", "react"],
              parameters,
            },
          ]
        : []),
    ];
    const tasks = await supervisor.assignTasks([
      ...parts,
      {
        taskId: "release",
        taskType: "release",
        description: `Release ${idea}`,
        requiredCapabilities: ["project_management"],
        dependsOn: parts.map(({ taskId }) => taskId),
      },
    ]);
    say(SUPERVISOR, `${tasks.length} tasks for ${idea}; nobody is there yet to do them`);

    await cast.agent(
      "python-worker",
      {
        api_development: () => {
          say("python-worker", "develops the API");
          return { endpoints: 4 };
        },
      },
      { capabilities: ["python@3.12", "api_development"] },
    );
    await cast.agent(
      "react-worker",
      {
        ui_development: () => {
          say("react-worker", "creates the UI");
          return { views: 3 };
        },
      },
      { capabilities: ["javascript", "react"] },
    );
    // A supervisor is never given its own tasks: another manager releases.
    await cast.agent(
      "release-manager",
      {
        release: () => {
          say("release-manager", "releases what both have made");
          return { released: true };
        },
      },
      { capabilities: ["project_management"] },
    );
    const ended = await Promise.all(
      tasks.map(({ taskId }) => supervisor.waitForTask(taskId, { timeoutMs: 30_000 })),
    );
    const { completionRate } = await supervisor.getCoordinationStats();
    say(SUPERVISOR, `the project is done; completion rate ${completionRate}`);
    return {
      autonomous_tasks: tasks.map(({ taskId }) => taskId),
      coordination_enabled: true,
      ended,
    };
  },
};
