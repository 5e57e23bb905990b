import { setTimeout as sleep } from "node:timers/promises";
import type { ClaimedMessage, Outbox, WorkContext, Worker } from "../index.ts";
import { defineCommand } from "./command.ts";
import { EXIT, exitOfSignal, UsageError } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { clean, duration, plural } from "./text.ts";
import { handleMessage } from "./work-handler.ts";

const IDLE_LOOK_MS = 150;
const STATUS_MS = 200;

const work = defineCommand({
  name: "work",
  summary: "Run a program for each message of a mailbox",
  details: [
    "The message comes as JSON on the program's standard input, and as OUTBOX_MESSAGE_ID, OUTBOX_MESSAGE_TYPE, OUTBOX_FROM_AGENT, OUTBOX_ATTEMPT and others in its environment. Its lease is kept alive while the program runs; when the lease is lost, or at the end, the program gets SIGTERM.",
    'Exit code 0 finishes the message; what the program wrote to stdout (JSON, or text as {"output": …}) is the reply to the sender, sent in the transaction that finishes the message. 75 gives it back for later without counting the run; 65 sends it to the dead letters; any other is a failure, tried again by the retry policy, with the end of stderr as its error.',
    "A registered agent beats while this runs, so that supervisors give it tasks.",
  ],
  arguments: { agent: { help: "Whose mailbox" } },
  options: {
    exec: { type: "text", short: "x", value: "CMD", help: "The program, for the shell (required)" },
    concurrency: {
      type: "number",
      value: "N",
      min: 1,
      max: 1_000,
      default: 1,
      help: "Programs at once",
    },
    types: { type: "text", value: "TYPE", multiple: "list", help: "Only these message types" },
    "lease-ms": {
      type: "number",
      value: "MS",
      min: 100,
      default: 30_000,
      help: "When this process dies, its messages are free after this",
    },
    "timeout-ms": {
      type: "number",
      value: "MS",
      min: 1,
      help: "A program that runs longer is ended, and has failed",
    },
    "defer-ms": {
      type: "number",
      value: "MS",
      default: 5_000,
      help: "The pause after exit code 75",
    },
    "stop-ms": {
      type: "number",
      value: "MS",
      max: 86_400_000,
      default: 10_000,
      help: "How long programs may go on after Ctrl-C",
    },
    "no-reply": { type: "flag", help: "Send no replies" },
    once: { type: "flag", help: "At most one message, then end" },
    drain: { type: "flag", help: "End when nothing is ready any more" },
  },
  examples: [
    ["work worker-1 --exec 'jq .content'", "answers each message with its content"],
    ["work thumbnails --exec ./thumbnail.sh --concurrency 4 --timeout-ms 60000", "four at a time"],
    ["work reports --exec 'python3 report.py' --drain", "from cron: what is there, then end"],
  ],
  async run({ args, options, terminal, env, signal, config, outbox, endsByItself }) {
    const command = options.exec;
    if (command === undefined || command.trim() === "") {
      throw new UsageError(
        "--exec CMD is missing",
        "Say what to run for each message, as in --exec 'jq .content'.",
      );
    }
    const settings = await config();
    const opened = await outbox();
    endsByItself();
    const report = new Report(terminal, args.agent);
    const handlerOptions = {
      command,
      // What the program sends with agent-outbox goes to the same place.
      env: { ...env, DATABASE_URL: settings.database, OUTBOX_PREFIX: settings.prefix },
      timeoutMs: options["timeout-ms"],
      deferMs: options["defer-ms"],
      reply: !options["no-reply"],
      onStderr: (chunk: string) => terminal.errorRaw(chunk),
    };
    const deadlineMs = options["stop-ms"];
    let worker: Worker | undefined;
    const handler = async (message: ClaimedMessage, context: WorkContext) => {
      const since = performance.now();
      report.begins();
      try {
        const handled = await handleMessage(message, context, handlerOptions);
        report.ended(message, performance.now() - since, handled);
      } catch (error) {
        const lost = context.signal.aborted;
        report.ended(message, performance.now() - since, {
          outcome: lost ? "given_back" : "failed",
          error: lost ? String((context.signal.reason as Error).message) : (error as Error).message,
        });
        throw error;
      } finally {
        // Before this handler returns, so that no second one starts.
        if (options.once) void worker?.stop({ deadlineMs });
      }
    };
    worker = opened.queue.work(args.agent, handler, {
      concurrency: options.once ? 1 : options.concurrency,
      leaseMs: options["lease-ms"],
      messageTypes: options.types.length === 0 ? undefined : [...options.types],
      onError: (error, { during }) => {
        if (during !== "handle") report.trouble(during, error as Error);
      },
    });
    const stopping = new AbortController();
    const onAbort = () => {
      report.stopping(deadlineMs);
      void worker.stop({ deadlineMs });
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    if (!options.once && !options.drain) report.waits();
    const beating = beat(opened, args.agent, settings.heartbeatIntervalMs, stopping.signal);
    const looking =
      options.once || options.drain
        ? endWhenEmpty(opened, worker, options.types, stopping.signal)
        : undefined;
    await worker.stopped;
    stopping.abort();
    signal.removeEventListener("abort", onAbort);
    await Promise.all([beating, looking]);
    report.close();
    // SIGTERM is how a service is stopped: that is no failure.
    return signal.aborted && signal.reason !== "SIGTERM" ? exitOfSignal(signal) : EXIT.OK;
  },
});

/** Tells the registry that the agent is alive, if it is registered, as long as it works. */
async function beat(
  outbox: Outbox,
  agent: string,
  everyMs: number,
  stop: AbortSignal,
): Promise<void> {
  while (!stop.aborted) {
    // Not registered, or the database is away: the next beat tries again.
    await outbox.agents.updateHeartbeat(agent).catch(() => {});
    await sleep(everyMs, undefined, { signal: stop }).catch(() => {});
  }
}

/** Stops the worker when it has nothing in hand and there is nothing that it could claim. */
async function endWhenEmpty(
  outbox: Outbox,
  worker: Worker,
  types: readonly string[],
  stop: AbortSignal,
): Promise<void> {
  for (;;) {
    await sleep(IDLE_LOOK_MS, undefined, { signal: stop }).catch(() => {});
    if (stop.aborted) return;
    const { active, waiting } = worker.stats;
    if (active + waiting > 0) continue;
    try {
      const { pending, scheduled, paused } = await outbox.queue.getQueueStats(worker.agentId);
      if (pending + scheduled === 0) return void worker.stop();
      // The worker will have it in a moment.
      if (pending > 0 && types.length === 0 && !paused) continue;
      // Only a claim knows whether any of them is due, and of these types.
      const [found] = await outbox.queue.getMessages(worker.agentId, {
        limit: 1,
        messageTypes: types.length === 0 ? undefined : [...types],
      });
      if (found === undefined) return void worker.stop();
      await found.defer(0);
    } catch {
      // The database is away: the worker waits for it, and so does this.
    }
  }
}

type Outcome = "done" | "deferred" | "dead_lettered" | "failed" | "given_back";

const MARKS: Record<
  Outcome,
  readonly [mark: string, style: "green" | "yellow" | "red", text: string]
> = {
  done: ["✓", "green", "done"],
  deferred: ["↻", "yellow", "deferred"],
  given_back: ["↻", "yellow", "given back"],
  failed: ["✗", "red", "failed"],
  dead_lettered: ["✗", "red", "dead-lettered"],
};

/** One status line where a person watches, a line per message otherwise. */
class Report {
  readonly #terminal: Terminal;
  readonly #agent: string;
  readonly #counts = new Map<Outcome, number>();
  readonly #since = performance.now();
  readonly #timer: NodeJS.Timeout;
  #running = 0;
  #note = "";

  constructor(terminal: Terminal, agent: string) {
    this.#terminal = terminal;
    this.#agent = agent;
    this.#timer = setInterval(() => this.#draw(), STATUS_MS);
    this.#timer.unref();
  }

  begins(): void {
    this.#running++;
  }

  waits(): void {
    if (!this.#terminal.interactive) {
      this.#terminal.say(`Working the mailbox ${this.#agent}; SIGINT or SIGTERM ends.`);
    }
    this.#draw();
  }

  ended(
    message: ClaimedMessage,
    tookMs: number,
    end: { readonly outcome: Outcome; readonly replyId?: string; readonly error?: string },
  ): void {
    const terminal = this.#terminal;
    this.#running--;
    this.#counts.set(end.outcome, (this.#counts.get(end.outcome) ?? 0) + 1);
    terminal.item({
      message_id: message.messageId,
      message_type: message.messageType,
      outcome: end.outcome,
      attempt: message.attempt,
      duration_ms: Math.round(tookMs),
      ...(end.replyId === undefined ? {} : { reply_id: end.replyId }),
      ...(end.error === undefined ? {} : { error: end.error }),
    });
    const [mark, style, text] = MARKS[end.outcome];
    // On a terminal the status line counts what went well.
    if (terminal.interactive && end.outcome === "done") return;
    const run =
      message.attempt > 1 || end.outcome !== "done"
        ? `, run ${message.attempt} of ${message.maxAttempts}`
        : "";
    const error = end.error === undefined ? "" : `: ${clean(end.error).slice(-300)}`;
    terminal.say(
      `${terminal.style(style, mark)} ${message.messageId}  ${message.messageType}  ${text} in ${duration(tookMs)}${run}${error}`,
    );
  }

  trouble(during: string, error: Error): void {
    this.#terminal.error(
      `${this.#terminal.errorStyle("yellow", "warning:")} could not ${during}: ${clean(error.message)}; trying again`,
    );
  }

  stopping(deadlineMs: number): void {
    if (this.#running === 0) return;
    this.#note = `stopping within ${duration(deadlineMs)}, again Ctrl-C to end at once`;
    this.#terminal.error(
      `Stopping: ${plural(this.#running, "program")} may go on for ${duration(deadlineMs)}.`,
    );
    this.#draw();
  }

  #draw(): void {
    const count = (outcome: Outcome) => this.#counts.get(outcome) ?? 0;
    const done = count("done");
    const failed = count("failed") + count("dead_lettered");
    const seconds = (performance.now() - this.#since) / 1_000;
    const parts = [
      `${this.#running} running`,
      `${done} done`,
      ...(failed > 0 ? [`${failed} failed`] : []),
      ...(seconds > 2 ? [`${(done / seconds).toFixed(1)}/s`] : []),
      this.#note === "" ? "Ctrl-C ends" : this.#note,
    ];
    this.#terminal.status(`${this.#agent}: ${parts.join(", ")}`);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#terminal.clearStatus();
    const parts = [...this.#counts].map(([outcome, count]) => `${count} ${MARKS[outcome][2]}`);
    this.#terminal.say(parts.length === 0 ? "Nothing to do." : `Ended: ${parts.join(", ")}.`);
  }
}

export const workCommands = [work];
