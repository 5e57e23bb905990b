import { AgentCommunicationError } from "../../errors.ts";
import { isEnd } from "../../protocol/states.ts";
import type { Task } from "../../protocol/tasks.ts";
import type { Parts } from "../parts.ts";
import { whyParked } from "./parked.ts";
import { type Answer, count, iso, type TaskExplanation } from "./words.ts";

/** Tasks and questions that are named one by one. */
const NAMED = 10;

/**
 * What exactly a task waits for. What it costs does not grow with what waits.
 *
 * @throws AgentCommunicationError UNKNOWN_TASK
 */
export async function explainTask(parts: Parts, taskId: string): Promise<TaskExplanation> {
  const task = await parts.tasks.get(taskId);
  if (task === undefined) {
    throw new AgentCommunicationError("UNKNOWN_TASK", `there is no task "${taskId}"`, {
      details: { taskId },
    });
  }
  return { taskId, state: task.state, ...(await answer(parts, task)) };
}

async function answer(parts: Parts, task: Task): Promise<Answer> {
  if (isEnd(task.state)) return ended(task);
  if (task.pausedAt !== null) {
    return {
      reason: "paused",
      explanation: `it is paused since ${iso(task.pausedAt)}`,
      remedy: `Let it go on with \`agent-outbox tasks resume ${task.taskId}\`.`,
      details: { pausedAt: task.pausedAt, agentId: task.agentId },
    };
  }
  if (task.state === "input_required" || task.state === "auth_required") return asked(parts, task);
  if (task.agentId !== null) return withAgent(parts, task, task.agentId);
  if (task.waitsFor > 0) return waiting(parts, task);
  if (task.auctionEndsAt !== null) {
    return {
      reason: "in_auction",
      explanation: `agents may bid for it until ${iso(task.auctionEndsAt)}`,
      remedy: "Nothing: it is awarded then, or given to the best agent.",
      details: { auctionEndsAt: task.auctionEndsAt },
    };
  }
  return whyParked(parts, task);
}

function ended(task: Task): Answer {
  const { state, finishedAt, lastError, agentId } = task;
  const by = agentId === null ? "" : ` by ${agentId}`;
  const error = state === "completed" ? null : lastError;
  const cause = error === null ? "" : `: ${error.code}: ${error.message}`;
  return {
    reason: "ended",
    explanation: `${state} at ${iso(finishedAt ?? 0)}${by} in assignment ${task.assignment}${cause}`,
    remedy:
      state === "completed" || state === "canceled"
        ? "Nothing: it has ended."
        : "Mend the cause and assign it again under another id.",
    details: { finishedAt, agentId, assignment: task.assignment, error },
  };
}

async function asked(parts: Parts, task: Task): Promise<Answer> {
  const open = await parts.inputs.list({
    taskId: task.taskId,
    all: false,
    afterSeq: 0,
    limit: NAMED,
  });
  const [first] = open;
  const who = task.requestedBy ?? task.supervisorId;
  return {
    reason: "waiting_on_input",
    explanation:
      first === undefined
        ? `it waits for ${task.state === "auth_required" ? "authorization" : "input"}, as its agent reported`
        : `"${first.askedBy}" asks "${who}" since ${iso(first.askedAt)}: ${first.prompt.slice(0, 200)}`,
    remedy:
      first === undefined
        ? "Give its agent what it needs."
        : `Answer with \`agent-outbox tasks answer ${first.inputId}\`.`,
    details: {
      agentId: task.agentId,
      inputs: open.map(({ inputId, prompt }) => ({ inputId, prompt })),
    },
  };
}

async function waiting(parts: Parts, task: Task): Promise<Answer> {
  const awaited = await parts.dependencies.of(task.taskId, NAMED);
  if (awaited.length === 0) {
    const subtasks = await parts.family.partsOf([task.taskId], NAMED, { live: true });
    const named = subtasks.map(({ taskId, state }) => `${taskId} is ${state}`);
    return {
      reason: "waiting_on_subtasks",
      explanation: `it waits for ${count(task.waitsFor, "subtask")} (${named.join("; ")})`,
      remedy: `See what keeps them: \`agent-outbox tasks why ${subtasks[0]?.taskId ?? "ID"}\`.`,
      details: {
        waitsFor: task.waitsFor,
        subtasks: subtasks.map(({ taskId, state }) => ({ taskId, state })),
      },
    };
  }
  const named = awaited.map(({ taskId, state }) => `${taskId} is ${state ?? "no longer known"}`);
  return {
    reason: "waiting_on_dependency",
    explanation: `${count(task.waitsFor, "task")} must complete before it (${named.join("; ")})`,
    remedy: `See what keeps them: \`agent-outbox tasks why ${awaited[0]?.taskId}\`.`,
    details: { waitsFor: task.waitsFor, dependsOn: awaited },
  };
}

async function withAgent(parts: Parts, task: Task, agentId: string): Promise<Answer> {
  const agent = await parts.agents.get(agentId);
  const details = { agentId, assignment: task.assignment, assignedAt: task.assignedAt };
  if (agent === undefined || agent.lost || agent.status === "offline") {
    const since = agent === undefined ? "" : `, last heard of at ${iso(agent.heartbeatAt)}`;
    return {
      reason: "agent_lost",
      explanation: `its agent "${agentId}" is ${agent === undefined ? "gone" : agent.lost ? "lost" : "offline"}${since}`,
      remedy: "Nothing, where a supervisor runs: its next sweep gives the task to another agent.",
      details: { ...details, heartbeatAt: agent?.heartbeatAt ?? null },
    };
  }
  if (task.startedAt !== null || task.state === "working") return working(task, agentId);
  const [message] = task.messageId === null ? [] : await parts.queue.why(task.messageId);
  const given = `given to "${agentId}" at ${iso(task.assignedAt ?? task.createdAt)}`;
  if (message === undefined) {
    return { reason: "claimed", explanation: given, remedy: "Wait for its agent.", details };
  }
  const told = {
    ...details,
    message: { messageId: task.messageId, state: message.state, until: message.until },
  };
  const taken = message.state === "leased" || message.state === "processed";
  return {
    reason: message.state === "paused" ? "mailbox_paused" : taken ? "claimed" : "not_claimed",
    explanation: `${given}, which has not begun; its message: ${message.reason}`,
    remedy: message.remedy,
    details: told,
  };
}

function working(task: Task, agentId: string): Answer {
  const { startedAt, progress, runDeadlineAt, deadlineAt } = task;
  const since = startedAt === null ? "" : ` since ${iso(startedAt)}`;
  const done =
    progress === null || progress.percentage === null ? "" : `, ${progress.percentage} % done`;
  const until = [
    ...(runDeadlineAt === null ? [] : [`this run must end by ${iso(runDeadlineAt)}`]),
    ...(deadlineAt === null ? [] : [`the task by ${iso(deadlineAt)}`]),
  ];
  return {
    reason: "working",
    explanation: `"${agentId}" works on it${since}${done}${until.length === 0 ? "" : `; ${until.join(", ")}`}`,
    remedy: "Nothing: it is under way.",
    details: {
      agentId,
      assignment: task.assignment,
      startedAt,
      progress,
      runDeadlineAt,
      deadlineAt,
    },
  };
}
