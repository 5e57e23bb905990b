/** The report in words, for a terminal of 80 columns or more. */
import { basename, dirname, relative } from "node:path";
import { styleText } from "node:util";
import type { JqAnswer } from "./logs.ts";
import { findingLines } from "./render-findings.ts";
import { secondActLines } from "./render-second-act.ts";
import type { Report } from "./report.ts";
import { counted, number, printable, seconds } from "./words.ts";

/** Of jq's answers; the whole is one copied command away. */
const MOST_ANSWER_LINES = 24;

export interface RenderOptions {
  readonly color: boolean;
  /** Columns of the terminal. */
  readonly width: number;
}

export function renderReport(report: Report, { color, width }: RenderOptions): string {
  const title = (text: string) => (color ? styleText("bold", text) : text);
  const dim = (text: string) => (color ? styleText("dim", text) : text);
  const sections: [string, string[]][] = [
    ["What the agents found", findingLines(report, width)],
    ["The agent that was killed", recoveryLines(report)],
    ["Who did it", agentLines(report)],
    ["The plan that was undone", secondActLines(report)],
    ["How fast", speedLines(report)],
    ["Where it is", placeLines(report)],
    ["Ask the logs yourself", jqLines(report, dim)],
  ];
  const body = sections
    .filter(([, lines]) => lines.length > 0)
    .map(
      ([heading, lines]) =>
        `${title(heading)}\n${lines.map((line) => `  ${line}`.trimEnd()).join("\n")}\n`,
    );
  return `\n${title(verdict(report))}\n\n${body.join("\n")}`;
}

function verdict({ tasks, files, recovery, agents }: Report): string {
  const done = `${counted(tasks.completed, "task")} on ${counted(files.analysed, "file")} done`;
  const killed = recovery === null ? "" : ", 1 killed on the way";
  const end = tasks.failed.length === 0 ? "nothing lost" : `${number(tasks.failed.length)} failed`;
  return `${done} by ${agents.length} agents${killed}; ${end}.`;
}

function recoveryLines({ recovery, tasks, lostWorkers }: Report): string[] {
  const lines: string[] = [];
  if (recovery !== null) {
    const { killedAgent, recoveredBy, recoveredAfterMs, resultsCounted, task, taskId } = recovery;
    lines.push(`${killedAgent} got SIGKILL in the middle of ${printable(task)} (task ${taskId}).`);
    if (recoveredBy === null) lines.push("No other agent has finished that task.");
    else {
      const times = resultsCounted === 1 ? "once" : `${resultsCounted} times`;
      lines.push(
        `${recoveredBy} finished it ${seconds(recoveredAfterMs ?? 0)} after the kill; its result counted ${times}.`,
      );
    }
    const others = tasks.reassigned.filter(
      (one) => one.taskId !== taskId && one.from === killedAgent,
    );
    if (others.length > 0) lines.push(othersOf(killedAgent, others));
  }
  const late = tasks.reassigned.filter(({ from }) => from !== recovery?.killedAgent).length;
  if (late > 0) {
    lines.push(
      `${counted(late, "task")} of living agents went to others: their heartbeat was late.`,
    );
  }
  for (const { agentId, why } of lostWorkers) {
    lines.push(`Not planned: the process of ${agentId} ${printable(why)}.`);
  }
  return lines;
}

/** Tasks that the dead agent had been given and not begun, or begun and not ended. */
function othersOf(killed: string, others: Report["tasks"]["reassigned"]): string {
  const takers = new Map<string, number>();
  for (const { to } of others) takers.set(to ?? "nobody", (takers.get(to ?? "nobody") ?? 0) + 1);
  const list = [...takers].map(([name, count]) =>
    takers.size === 1 ? name : `${name} (${count})`,
  );
  return `${counted(others.length, "more task")} of ${killed} went to ${list.join(" and ")}.`;
}

function agentLines({ agents }: Report): string[] {
  const rows = agents.map(({ agentId, capabilities, tasks, share, busyMs, killed }) => [
    agentId,
    capabilities.join(", "),
    number(tasks),
    `${Math.round(share * 100)} %`,
    seconds(busyMs),
    killed ? "killed" : "",
  ]);
  return table([["agent", "can do", "tasks", "share", "busy", ""], ...rows], [2, 3, 4]);
}

function table(rows: readonly (readonly string[])[], rightAligned: readonly number[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return rightAligned.includes(column) ? cell.padStart(width) : cell.padEnd(width);
      })
      .join("  "),
  );
}

function speedLines({ throughput, recovery, tasks }: Report): string[] {
  const { startMs, workMs, tasksPerSecond, messagesSent, messagesPerSecond } = throughput;
  const waited = recovery?.recoveredAfterMs ?? 0;
  return [
    `${counted(tasks.total, "task")} in ${seconds(workMs)}: ${number(tasksPerSecond)} tasks/s, ${counted(messagesSent, "message")}, ${number(messagesPerSecond)} messages/s.`,
    `${seconds(waited)} of it went until the dead agent was missed and its task was done;`,
    `before that, ${seconds(startMs)} to start four processes and to migrate the database.`,
  ].filter((_, n) => n !== 1 || waited > 0);
}

function placeLines({ database, out, logs }: Report): string[] {
  // Never advise to remove a folder that somebody named.
  const isOurs = basename(dirname(out)) === ".outbox-demo";
  const here = (path: string) => {
    const short = relative(process.cwd(), path);
    return short === "" ? "." : short.startsWith("..") ? path : short;
  };
  const tables =
    database.file !== null
      ? here(database.file)
      : `${database.url} (tables ${database.prefix}*, ${database.kept ? "kept" : "removed"})`;
  const files = logs.files.map(
    ({ file, lines }) => `${number(lines).padStart(7)} ${lines === 1 ? "line " : "lines"}  ${file}`,
  );
  return [
    `database  ${tables}`,
    `logs      ${here(logs.folder)}`,
    ...files.map((line) => `          ${line}`),
    `this run  ${here(logs.demoLog)}`,
    ...(isOurs ? [`Remove it all with: rm -r ${here(out)}`] : []),
  ];
}

function jqLines({ jq, logs }: Report, dim: (text: string) => string): string[] {
  const [first] = jq;
  if (first === undefined) return [];
  const folder = relative(process.cwd(), logs.folder) || ".";
  const note = first.output === null ? ["jq is not installed here; with it, these tell more:"] : [];
  return [...note, `cd ${folder}`, ...jq.flatMap((one) => ["", ...answerLines(one, dim)])];
}

function answerLines(
  { title, command, output }: JqAnswer,
  dim: (text: string) => string,
): string[] {
  const lines = [`# ${title}`, command];
  if (output === null) return lines;
  const all = output.replaceAll("\t", "  ").split("\n").map(printable);
  const shown = all.slice(0, MOST_ANSWER_LINES).map(dim);
  const rest = all.length - shown.length;
  return [...lines, ...shown, ...(rest > 0 ? [dim(`… ${counted(rest, "more line")}`)] : [])];
}
