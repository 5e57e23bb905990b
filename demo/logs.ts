/** What the log files hold, and what jq makes of them. */
import { spawnSync } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

export interface LogFileSummary {
  readonly file: string;
  readonly lines: number;
}

export interface LogSummary {
  readonly files: readonly LogFileSummary[];
  /** Messages sent and processed, over all processes. */
  readonly sent: number;
  readonly processed: number;
  /** How often each task was logged as completed: once, or something is wrong. */
  readonly completions: ReadonlyMap<string, number>;
}

export interface JqCommand {
  readonly title: string;
  readonly command: string;
}

export interface JqAnswer extends JqCommand {
  /** What jq printed; null where it is not installed. */
  readonly output: string | null;
}

export async function summariseLogs(folder: string): Promise<LogSummary> {
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith(".jsonl"));
  const files: LogFileSummary[] = [];
  const completions = new Map<string, number>();
  let sent = 0;
  let processed = 0;
  for (const file of names.sort()) {
    const lines = (await readFile(join(folder, file), "utf8")).split("\n").filter(Boolean);
    files.push({ file, lines: lines.length });
    if (!/^(?:message_audit|task_history)_/.test(file)) continue;
    for (const line of lines) {
      const { event, task_id, message_id } = JSON.parse(line) as Record<string, string>;
      if (message_id !== undefined) {
        if (event === "sent") sent++;
        else if (event === "processed") processed++;
      } else if (event === "completed" && task_id !== undefined) {
        completions.set(task_id, (completions.get(task_id) ?? 0) + 1);
      }
    }
  }
  return { files, sent, processed, completions };
}

/** Recipes of the README, as they are typed in the folder that holds the files. */
export function jqCommands(correlationId: string): JqCommand[] {
  return [
    {
      title: `What happened to the task ${correlationId}`,
      command: String.raw`jq -rs --arg c ${correlationId} 'map(select(.correlation_id==$c))|sort_by(.timestamp)[]|"\(.timestamp) \(.event) \(.message_type) \(.from_agent)->\(.to_agent)"' message_audit_*.jsonl`,
    },
    {
      title: "Task success rate per agent",
      command: `jq -s 'map(select(.event|IN("completed","failed")))|group_by(.agent_id)|map({agent:.[0].agent_id,total:length,success_rate:((map(select(.data.success))|length)/length)})' task_history_*.jsonl`,
    },
    {
      title: "Messages sent per minute",
      command: `jq -rs 'map(select(.event=="sent"))|group_by(.timestamp[:16])[]|[.[0].timestamp[:16],length]|@tsv' message_audit_*.jsonl`,
    },
  ];
}

/** Runs the commands for real, where jq is installed. */
export function askJq(folder: string, commands: readonly JqCommand[]): JqAnswer[] {
  const shell = (command: string) =>
    spawnSync("sh", ["-c", command], { cwd: folder, encoding: "utf8", timeout: 15_000 });
  const installed = shell("jq --version").status === 0;
  return commands.map((one) => {
    if (!installed) return { ...one, output: null };
    const { stdout, stderr } = shell(one.command);
    return { ...one, output: `${stdout ?? ""}${stderr ?? ""}`.trimEnd() };
  });
}
