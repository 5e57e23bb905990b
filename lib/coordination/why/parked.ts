import type { Task } from "../../protocol/tasks.ts";
import type { Candidate, Census } from "../../store/matching/matching.ts";
import type { Parts } from "../parts.ts";
import { type Wanted, wantedOf } from "../submission.ts";
import { type Answer, count } from "./words.ts";

/** Agents that are named one by one. */
const NAMED = 3;

/** Why no agent has a task that any could have: how far its requirements get, and with how many agents. */
export async function whyParked(parts: Parts, task: Task): Promise<Answer> {
  const wanted = wantedOf(task);
  const census = await parts.matching.census(undefined, wanted.needs, wanted.cost);
  const { capable, alive, taking, free, requirements, agents } = census;
  const details = {
    agents,
    requirements,
    capable,
    alive,
    taking,
    free,
    cost: wanted.cost,
    supervisorId: task.supervisorId,
  };
  if (capable === 0) return { ...incapable(census), details };
  const able = `${count(capable, "agent")} could do it`;
  if (alive === 0) {
    return {
      reason: "none_alive",
      explanation: `${able}, but none of them beats: they are lost or offline`,
      remedy: "Start one of them (`agent-outbox agents ls`); it gets the task when it registers.",
      details,
    };
  }
  if (taking === 0) {
    return {
      reason: "none_taking",
      explanation: `${able}, ${alive} of them alive, but none takes tasks: they drain, have no slots, are in development, or miss an agent that they depend on`,
      remedy:
        "Resume one with `agent-outbox agents resume ID`, or see `agent-outbox agents show ID`.",
      details,
    };
  }
  if (free === 0) return { ...(await full(parts, wanted, census)), details };
  const open = await candidates(parts, wanted, wanted.cost, [task.supervisorId]);
  if (open.length === 0) {
    return {
      reason: "only_its_supervisor",
      explanation: `only its own supervisor "${task.supervisorId}" could do it, and nobody is given its own tasks`,
      remedy:
        "Register another agent with these capabilities, or let another supervisor assign it.",
      details,
    };
  }
  return {
    reason: "about_to_be_assigned",
    explanation: `${count(free, "agent")} could take it now, such as "${open[0]?.agentId}": whoever places parked tasks has not come to it yet`,
    remedy:
      "Nothing, where a supervisor runs: it looks every second. Otherwise start one (`supervisor.run()`).",
    details: { ...details, candidates: open.map(({ agentId }) => agentId) },
  };
}

function incapable({ agents, requirements }: Census): Omit<Answer, "details"> {
  const reason = "no_capable_agent";
  const remedy = "Register an agent with these capabilities, or assign the task with others.";
  if (agents === 0) return { reason, explanation: "no agent is registered", remedy };
  const met = requirements.map((it) => `${it.text}: ${count(it.agents, "agent")}`).join("; ");
  const nobody = requirements.filter((it) => it.agents === 0).map(({ text }) => `"${text}"`);
  const of = `of ${count(agents, "agent")}`;
  const explanation =
    nobody.length > 0
      ? `${of} none meets ${nobody.join(", ")} (${met})`
      : `${of} each requirement is met by some, but all of them by none (${met})`;
  return { reason, explanation, remedy };
}

async function full(
  parts: Parts,
  wanted: Wanted,
  { capable, taking }: Census,
): Promise<Omit<Answer, "details">> {
  const reason = "none_free";
  // With no slots asked for, those without room are in the answer too.
  const least = await candidates(parts, wanted, 0, []);
  const most = Math.max(0, ...least.map(({ maxConcurrentTasks }) => maxConcurrentTasks));
  const named = least.map(
    ({ agentId, free, maxConcurrentTasks }) =>
      `${agentId} uses ${maxConcurrentTasks - free} of ${maxConcurrentTasks} slots`,
  );
  const explanation = `${count(capable, "agent")} could do it, ${taking} of them take tasks, but none has ${count(wanted.cost, "slot")} free (${named.join("; ")})`;
  const remedy =
    most < wanted.cost && least.length < NAMED
      ? `Its cost of ${wanted.cost} is more than any of them has: raise maxConcurrentTasks.`
      : "It gets the next slot that frees up, in the order of priority; more agents or more slots make it faster.";
  return { reason, explanation, remedy };
}

async function candidates(
  parts: Parts,
  { needs, strategy, contextId }: Wanted,
  cost: number,
  exclude: readonly string[],
): Promise<Candidate[]> {
  return parts.matching.candidates(undefined, needs, {
    limit: NAMED,
    cost,
    strategy: strategy === "auction" ? "leastLoaded" : strategy,
    contextId,
    exclude,
  });
}
