/** The report as data: what `--json` prints, and what is put into words for people. */
import { redactUrl, type Task } from "../lib/index.ts";
import { type Findings, findingsOf, workMsOf } from "./findings.ts";
import type { JqAnswer, LogFileSummary, LogSummary } from "./logs.ts";
import type { Place } from "./place.ts";
import { type PlannedTask, titleOf } from "./plan.ts";
import { AGENTS } from "./protocol.ts";
import type { SecondAct } from "./second-act.ts";
import type { SupervisorSummary } from "./supervisor.ts";
import type { Walk } from "./walk.ts";

/** What the main process saw of the killing. */
export interface Kill {
  readonly agentId: string;
  readonly task: PlannedTask;
  /** From the kill to the end of the task; null while it has not ended. */
  readonly recoveredAfterMs: number | null;
}

export interface Run {
  readonly place: Place;
  /** Whether the tables are still there at the end. */
  readonly kept: boolean;
  readonly walk: Walk;
  readonly startMs: number;
  readonly workMs: number;
  readonly kill: Kill | undefined;
  /** Worker processes that ended without having been told to, other than the killed one. */
  readonly lost: readonly { readonly agentId: string; readonly why: string }[];
  readonly tasks: readonly Task[];
  readonly supervisor: SupervisorSummary;
  readonly secondAct: SecondAct;
  readonly logSummary: LogSummary;
  readonly jq: readonly JqAnswer[];
}

export interface AgentReport {
  readonly agentId: string;
  readonly capabilities: readonly string[];
  readonly tasks: number;
  /** Of all completed tasks, 0 to 1. */
  readonly share: number;
  readonly busyMs: number;
  readonly killed: boolean;
}

export interface Reassignment {
  readonly taskId: string;
  readonly from: string | null;
  readonly to: string | null;
}

export interface Recovery {
  readonly killedAgent: string;
  readonly signal: "SIGKILL";
  readonly taskId: string;
  readonly task: string;
  readonly recoveredBy: string | null;
  readonly recoveredAfterMs: number | null;
  /** How often the log says that the task completed: 1. */
  readonly resultsCounted: number;
}

export interface Report {
  readonly folder: string;
  readonly files: {
    readonly analysed: number;
    readonly skipped: Walk["skipped"];
    readonly more: boolean;
  };
  readonly tasks: {
    readonly total: number;
    readonly completed: number;
    readonly failed: readonly { readonly taskId: string; readonly error: string }[];
    /** Every task that changed hands. */
    readonly reassigned: readonly Reassignment[];
  };
  readonly recovery: Recovery | null;
  readonly lostWorkers: Run["lost"];
  readonly findings: Findings;
  readonly agents: readonly AgentReport[];
  readonly supervisor: SupervisorSummary;
  /** The plan that was undone, and the handoff in it. */
  readonly secondAct: SecondAct;
  readonly throughput: {
    readonly startMs: number;
    readonly workMs: number;
    readonly tasksPerSecond: number;
    readonly messagesSent: number;
    readonly messagesProcessed: number;
    readonly messagesPerSecond: number;
  };
  readonly database: {
    readonly url: string;
    readonly file: string | null;
    readonly prefix: string;
    readonly kept: boolean;
  };
  readonly out: string;
  readonly logs: {
    readonly folder: string;
    readonly files: readonly LogFileSummary[];
    readonly demoLog: string;
  };
  readonly jq: readonly JqAnswer[];
}

export function reportOf(run: Run): Report {
  const { place, tasks, logSummary, workMs } = run;
  const perSecond = (count: number) => Math.round((count / Math.max(workMs, 1)) * 10_000) / 10;
  return {
    folder: place.root,
    files: { analysed: run.walk.files.length, skipped: run.walk.skipped, more: run.walk.more },
    tasks: {
      total: tasks.length,
      completed: tasks.filter(({ state }) => state === "completed").length,
      failed: tasks
        .filter(({ state }) => state !== "completed")
        .map(({ taskId, lastError, state }) => ({ taskId, error: lastError?.message ?? state })),
      reassigned: tasks
        .filter(({ assignment }) => assignment > 1)
        .map(({ taskId, previousAgentId, agentId }) => ({
          taskId,
          from: previousAgentId,
          to: agentId,
        })),
    },
    recovery: recoveryOf(run),
    lostWorkers: run.lost,
    findings: findingsOf(tasks),
    agents: agentsOf(run),
    supervisor: run.supervisor,
    secondAct: run.secondAct,
    throughput: {
      startMs: Math.round(run.startMs),
      workMs: Math.round(workMs),
      tasksPerSecond: perSecond(tasks.length),
      messagesSent: logSummary.sent,
      messagesProcessed: logSummary.processed,
      messagesPerSecond: perSecond(logSummary.sent),
    },
    database: {
      url: redactUrl(place.database),
      file: place.file,
      prefix: place.prefix,
      kept: run.kept,
    },
    out: place.out,
    logs: { folder: place.logs, files: logSummary.files, demoLog: place.logFile },
    jq: run.jq,
  };
}

function recoveryOf({ kill, tasks, logSummary }: Run): Recovery | null {
  if (kill === undefined) return null;
  const { taskId } = kill.task;
  const ended = tasks.find((task) => task.taskId === taskId);
  return {
    killedAgent: kill.agentId,
    signal: "SIGKILL",
    taskId,
    task: titleOf(kill.task),
    recoveredBy: ended?.state === "completed" ? ended.agentId : null,
    recoveredAfterMs: kill.recoveredAfterMs === null ? null : Math.round(kill.recoveredAfterMs),
    resultsCounted: logSummary.completions.get(taskId) ?? 0,
  };
}

function agentsOf({ tasks, kill }: Run): AgentReport[] {
  const completed = tasks.filter(({ state }) => state === "completed");
  return Object.entries(AGENTS).map(([agentId, capabilities]) => {
    const own = completed.filter((task) => task.agentId === agentId);
    return {
      agentId,
      capabilities,
      tasks: own.length,
      share: completed.length === 0 ? 0 : own.length / completed.length,
      busyMs: Math.round(own.reduce((sum, task) => sum + workMsOf(task), 0)),
      killed: kill?.agentId === agentId,
    };
  });
}
