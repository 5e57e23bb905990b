/** One run of the demo from its start to its end. */
import { rm, rmdir } from "node:fs/promises";
import { dirname } from "node:path";
import { createInterface } from "node:readline/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { type Outbox, openOutbox, type Task } from "../lib/index.ts";
import { Crew } from "./crew.ts";
import { findingsOf } from "./findings.ts";
import { askJq, jqCommands, summariseLogs } from "./logs.ts";
import type { DemoOptions } from "./options.ts";
import { DemoError, folderOf, type Place, preparePlace, removeTables } from "./place.ts";
import { type Plan, planFor, titleOf } from "./plan.ts";
import { Progress } from "./progress.ts";
import { AGENTS } from "./protocol.ts";
import { type Kill, type Report, reportOf } from "./report.ts";
import { type SecondAct, secondAct } from "./second-act.ts";
import { Supervision, type TaskEnd } from "./supervisor.ts";
import { type Walk, walk } from "./walk.ts";
import { counted, printable, seconds } from "./words.ts";

export type Outcome =
  | { readonly report: Report }
  | { readonly stoppedBy: NodeJS.Signals; readonly remark: string };

/** Nothing the demo does takes this long; it must not hang where nobody watches. */
const LONGEST_MS = 120_000;
/** People who press Enter may go for a coffee. */
const LONGEST_INTERACTIVE_MS = 3_600_000;
const LOG_FLUSH_MS = 120;
/** How long cleaning up may take after Ctrl-C. */
const GOODBYE_MS = 5_000;

/** @throws DemoError, AgentCommunicationError */
export async function runDemo(options: DemoOptions): Promise<Outcome> {
  const root = await folderOf(options.folder);
  const found = await walk(root, options.maxFiles).catch((error: NodeJS.ErrnoException) => {
    throw new DemoError(`cannot read ${root} (${error.code}); name a folder that you may read.`);
  });
  if (found.files.length === 0) {
    throw new DemoError(`${root} holds no text files; name a folder with some source files.`);
  }
  const place = await preparePlace(root, options);
  const run = new DemoRun(options, place, found);
  const signal = listenForSignals();
  try {
    const outcome = await Promise.race([run.perform(), signal.received]);
    if (typeof outcome !== "string") return { report: outcome };
    return { stoppedBy: outcome, remark: await run.abandon() };
  } catch (error) {
    await run.abandon();
    throw error;
  } finally {
    signal.ignore();
  }
}

class DemoRun {
  readonly #options: DemoOptions;
  readonly #place: Place;
  readonly #walk: Walk;
  readonly #plan: Plan;
  readonly #progress: Progress;
  readonly #goodbye = new AbortController();
  readonly #lost: { agentId: string; why: string }[] = [];
  #opening: Promise<Outbox> | undefined;
  #outbox: Outbox | undefined;
  #crew: Crew | undefined;
  #supervision: Supervision | undefined;
  #kill: (Kill & { readonly at: number }) | undefined;
  /** Ends the run for a reason that no task tells. */
  #fail: ((error: Error) => void) | undefined;

  constructor(options: DemoOptions, place: Place, found: Walk) {
    this.#options = options;
    this.#place = place;
    this.#walk = found;
    this.#plan = planFor(found.files);
    this.#progress = new Progress(place.logFile, { bar: !options.interactive });
  }

  async perform(): Promise<Report> {
    await this.#pause("start the four agents");
    const begun = performance.now();
    const supervision = await this.#open();
    const crew = await this.#startCrew();
    const working = performance.now();
    const { tasks: planned } = this.#plan;
    this.#progress.note(
      `${counted(planned.length + 1, "task")} for ${Object.keys(AGENTS).join(", ")}, each in a process of its own`,
    );
    this.#progress.begin(planned.length + 1);
    const failure = new Promise<never>((_, reject) => {
      this.#fail = reject;
    });
    await Promise.race([supervision.perform(this.#plan), failure]);
    const workMs = performance.now() - working;
    this.#progress.end();
    const tasks = await supervision.tasks();
    const summary = await supervision.summary();
    await this.#pause("publish the findings, which will fail");
    const second = await this.#secondAct(tasks);
    await crew.stop();
    await supervision.stop();
    const kept = this.#place.file !== null || this.#options.keep;
    await this.#close(kept);
    await this.#pause("see the report");
    const report = reportOf({
      place: this.#place,
      kept,
      walk: this.#walk,
      startMs: working - begun,
      workMs,
      kill: this.#kill,
      lost: this.#lost,
      tasks,
      supervisor: summary,
      secondAct: second,
      logSummary: await summariseLogs(this.#place.logs),
      jq: askJq(this.#place.logs, jqCommands(this.#plan.marked.taskId)),
    });
    this.#progress.log(JSON.stringify({ report }));
    return report;
  }

  /** Ends everything at once, whatever it was at, and says what is left. */
  async abandon(): Promise<string> {
    this.#goodbye.abort();
    this.#progress.end();
    this.#crew?.killAll();
    const kept = this.#place.file !== null || this.#options.keep;
    let removed = false;
    const goodbye = async () => {
      await this.#supervision?.stop();
      await this.#close(kept);
      removed = !kept;
    };
    await Promise.race([goodbye().catch(() => {}), sleep(GOODBYE_MS, undefined, { ref: false })]);
    // Where nothing was begun there is nothing to look at.
    if (this.#crew === undefined && this.#options.out === undefined) {
      await rm(this.#place.out, { recursive: true, force: true });
      // Fails while it holds earlier runs, which is right.
      await rmdir(dirname(this.#place.out)).catch(() => {});
      return "Nothing was begun.";
    }
    const { file, prefix, logs } = this.#place;
    const database = file ?? (removed ? "nothing is left in it" : `the tables ${prefix}* are left`);
    return `The agents are stopped, too.\n  database  ${database}\n  logs      ${logs}`;
  }

  async #open(): Promise<Supervision> {
    const { database, prefix, logs } = this.#place;
    this.#opening = openOutbox({
      database,
      prefix,
      migrate: true,
      poolMax: 4,
      fileLogging: { baseDir: logs, layout: "flat" },
    });
    this.#outbox = await this.#opening;
    this.#goodbye.signal.throwIfAborted();
    const longest = this.#options.interactive ? LONGEST_INTERACTIVE_MS : LONGEST_MS;
    this.#supervision = new Supervision(this.#outbox, longest, (end) => this.#ended(end));
    await this.#supervision.start();
    return this.#supervision;
  }

  async #startCrew(): Promise<Crew> {
    // Processes that were started now would be killed by nobody.
    this.#goodbye.signal.throwIfAborted();
    this.#crew = new Crew({
      inside: (agentId, taskId) => {
        this.#inside(agentId, taskId).catch((error) => this.#fail?.(error));
      },
      lost: (agentId, why) => this.#died(agentId, why),
    });
    const { database, prefix, logs, root } = this.#place;
    await this.#crew.start({ database, prefix, logs, root });
    return this.#crew;
  }

  #secondAct(tasks: readonly Task[]): Promise<SecondAct> {
    return secondAct(this.#outbox as Outbox, {
      out: this.#place.out,
      findings: findingsOf(tasks),
      note: (line) => this.#progress.note(line),
    });
  }

  /** The first agent that is in the middle of the marked task dies there; the next one may go on. */
  async #inside(agentId: string, taskId: string): Promise<void> {
    if (this.#kill !== undefined) return this.#crew?.goOn(agentId, taskId);
    const title = printable(titleOf(this.#plan.marked));
    this.#kill = { agentId, task: this.#plan.marked, recoveredAfterMs: null, at: Number.NaN };
    await this.#pause(`kill ${agentId} in the middle of ${title}`);
    // Long enough for what it has logged so far to be on the disk.
    await sleep(LOG_FLUSH_MS);
    this.#kill = { ...this.#kill, at: performance.now() };
    this.#crew?.kill(agentId);
    this.#progress.note(`${agentId} is in the middle of ${title}: killed (SIGKILL)`);
    this.#progress.hint(`${agentId} is dead and not missed yet`);
    this.#outbox
      ?.getFileLogger()
      ?.logError(agentId, "process_killed", `SIGKILL in the middle of the task ${taskId}`);
  }

  #ended({ taskId, agentId }: TaskEnd): void {
    this.#progress.advance();
    if (taskId !== this.#plan.marked.taskId || this.#kill === undefined) return;
    const recoveredAfterMs = performance.now() - this.#kill.at;
    this.#kill = { ...this.#kill, recoveredAfterMs };
    this.#progress.hint("");
    this.#progress.note(
      `${agentId ?? "nobody"} has finished it, ${seconds(recoveredAfterMs)} after the kill`,
    );
  }

  #died(agentId: string, why: string): void {
    this.#lost.push({ agentId, why });
    this.#progress.note(`The process of ${agentId} ${printable(why)}; others take over`);
    if (this.#crew?.someoneLives === false) {
      this.#fail?.(new DemoError(`all agents are gone; the last one ${printable(why)}`));
    }
  }

  async #close(kept: boolean): Promise<void> {
    const opening = this.#opening;
    this.#opening = undefined;
    // Also one that opens only now: it would go on being open.
    const outbox = await opening?.catch(() => undefined);
    this.#outbox = undefined;
    if (outbox === undefined) return;
    try {
      if (!kept) await removeTables(outbox, this.#place.prefix);
    } finally {
      await outbox.close();
    }
  }

  /** Between two steps: waits for whoever wants to press Enter, and goes no further after a goodbye. */
  async #pause(what: string): Promise<void> {
    this.#goodbye.signal.throwIfAborted();
    if (!this.#options.interactive) return;
    const terminal = createInterface({ input: process.stdin, output: process.stderr });
    // Ctrl-C means the same here as anywhere else.
    terminal.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
    try {
      await terminal.question(`Press Enter to ${what} `, { signal: this.#goodbye.signal });
    } finally {
      terminal.close();
      if (this.#goodbye.signal.aborted) process.stderr.write("\n");
    }
  }
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Ctrl-C, a polite kill, a closed terminal; npm and tsx may pass the same one on a second time. */
function listenForSignals() {
  let settle: (signal: NodeJS.Signals) => void = () => {};
  let first = 0;
  const received = new Promise<NodeJS.Signals>((resolve) => {
    settle = resolve;
  });
  const listener = (signal: NodeJS.Signals) => {
    // Who presses Ctrl-C again a while later does not want to wait for the goodbye.
    if (first > 0 && performance.now() - first > 1_000) process.exit(130);
    first ||= performance.now();
    settle(signal);
  };
  for (const name of SIGNALS) process.on(name, listener);
  return {
    received,
    ignore: () => {
      for (const name of SIGNALS) process.off(name, listener);
    },
  };
}
