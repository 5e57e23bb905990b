import { setTimeout as sleep } from "node:timers/promises";
import type { Health, QueueStats } from "../index.ts";
import { defineCommand } from "./command.ts";
import { missingFile } from "./context.ts";
import { EXIT, exitOfSignal } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { clean, duration, plural, wire } from "./text.ts";

const pause = defineCommand({
  name: "pause",
  summary: "Stop handing out the messages of a mailbox, in every process",
  details: ["Sending to it goes on, and what is being worked on is finished."],
  arguments: { agent: { help: "Whose mailbox" } },
  options: { reason: { type: "text", short: "r", value: "TEXT", help: "Why; `why` shows it" } },
  examples: [[`pause billing --reason "invoices are being recounted"`, "until resume"]],
  async run({ args, options, terminal, outbox }) {
    const { queue } = await outbox();
    const { reason } = options;
    await queue.pause(args.agent, reason === undefined ? {} : { reason });
    terminal.document({ agent_id: args.agent, paused: true });
    terminal.say(`Paused ${args.agent}. To undo: agent-outbox resume ${args.agent}`);
    return undefined;
  },
});

const resume = defineCommand({
  name: "resume",
  summary: "Hand out the messages of a paused mailbox again",
  arguments: { agent: { help: "Whose mailbox" } },
  examples: [["resume billing", "as before the pause"]],
  async run({ args, terminal, outbox }) {
    const { queue } = await outbox();
    const was = await queue.resume(args.agent);
    terminal.document({ agent_id: args.agent, paused: false, was_paused: was });
    terminal.say(was ? `Resumed ${args.agent}.` : `${args.agent} was not paused.`);
    return undefined;
  },
});

const health = defineCommand({
  name: "health",
  summary: "Probe the database and the queue; exit 3 when unhealthy",
  details: [
    "A message is stored and read back in a transaction that is rolled back: what it tells is tried, not inferred.",
  ],
  examples: [
    ["health", "is it well?"],
    ["health --json | jq .queue_operational", "for a probe of an orchestrator"],
  ],
  async run({ terminal, outbox, config }) {
    const found = await lookedAt(outbox, async () => missingFile((await config()).database));
    terminal.document(found);
    const mark = (good: boolean) => (good ? "yes" : "no");
    const style = (good: boolean) => (good ? ("green" as const) : ("red" as const));
    terminal.fields([
      ["database connected", mark(found.database_connected), style(found.database_connected)],
      ["queue operational", mark(found.queue_operational), style(found.queue_operational)],
      ["agents registered", String(found.agents_registered)],
      ["probe", found.probe_ms === null ? null : `${found.probe_ms} ms`],
    ]);
    for (const { message, remedy } of found.problems) {
      terminal.line();
      terminal.line(`${terminal.style(["bold", "red"], "problem:")} ${clean(message)}`);
      if (remedy !== "") terminal.line(`  ${terminal.style("bold", "fix:")} ${remedy}`);
    }
    return isWell(found) ? EXIT.OK : EXIT.UNHEALTHY;
  },
});

function isWell(found: Health): boolean {
  return found.database_connected && found.queue_operational && found.problems.length === 0;
}

/** What keeps the outbox from being opened is what a health check is there to tell. */
async function lookedAt(
  outbox: () => Promise<{ health(): Promise<Health> }>,
  missing: () => Promise<string | undefined>,
): Promise<Health> {
  try {
    return await (await outbox()).health();
  } catch (thrown) {
    const error = thrown as Error & { code?: string; recoverySuggestion?: string };
    const known = ["NOT_MIGRATED", "NEWER_DATABASE", "SERVICE_UNAVAILABLE", "PERMISSION_DENIED"];
    if (!known.includes(error.code ?? "")) throw error;
    // A SQLite file that is not there is reported as not migrated; but nothing answered.
    const answered =
      (error.code === "NOT_MIGRATED" || error.code === "NEWER_DATABASE") &&
      (await missing()) === undefined;
    return {
      database_connected: answered,
      agents_registered: 0,
      queue_operational: false,
      probe_ms: null,
      problems: [
        {
          check: answered ? "queue_operational" : "database_connected",
          message: error.message,
          remedy: error.recoverySuggestion ?? "",
        },
      ],
    };
  }
}

const stats = defineCommand({
  name: "stats",
  summary: "Show how much waits, runs and fails",
  details: [
    "Costs the same with ten messages and with ten million: counting stops at 10,000 (shown as ≥).",
  ],
  arguments: { agent: { optional: true, help: "Only this mailbox; default all together" } },
  options: {
    watch: { type: "flag", short: "w", help: "Go on until Ctrl-C; with --json a line each time" },
    "interval-ms": {
      type: "number",
      value: "MS",
      min: 100,
      max: 86_400_000,
      default: 2_000,
      help: "With --watch: how often",
    },
  },
  examples: [
    ["stats", "all mailboxes together"],
    ["stats worker-1 --watch", "one of them, live"],
    ["stats --json | jq .dead", "one figure"],
  ],
  async run({ args, options, terminal, signal, outbox }) {
    const opened = await outbox();
    const read = async () => {
      const queue = await opened.queue.getQueueStats(args.agent);
      const agents = args.agent === undefined ? await opened.agents.getRegistryStats() : null;
      return { queue, agents };
    };
    if (!options.watch) {
      const { queue, agents } = await read();
      terminal.document(wire({ ...queue, ...(agents === null ? {} : { agents }) }));
      for (const line of lines(terminal, args.agent, queue, agents)) terminal.line(line);
      return undefined;
    }
    let drawn = 0;
    while (!signal.aborted) {
      const { queue, agents } = await read();
      if (signal.aborted) break;
      const at = new Date();
      terminal.item(
        wire({ timestamp: at.toISOString(), ...queue, ...(agents === null ? {} : { agents }) }),
      );
      if (!terminal.json) {
        if (terminal.interactive) {
          const page = [
            ...lines(terminal, args.agent, queue, agents),
            "",
            terminal.style(
              "dim",
              `${at.toLocaleTimeString("en-GB")}, every ${duration(options["interval-ms"])}; Ctrl-C ends`,
            ),
          ];
          // Over the former page, line by line, so that nothing flickers.
          const up = drawn === 0 ? "" : `\x1b[${drawn}A`;
          terminal.raw(`${up}${page.map((line) => `\x1b[2K${line}\n`).join("")}\x1b[J`);
          drawn = page.length;
        } else {
          terminal.raw(`${at.toISOString()} ${short(queue)}\n`);
        }
      }
      await sleep(options["interval-ms"], undefined, { signal }).catch(() => {});
    }
    return exitOfSignal(signal);
  },
});

type RegistryFigures = Readonly<{
  totalAgents: number;
  availableAgents: number;
  lostAgents: number;
  currentTasks: number;
  capacity: number;
  averageLoad: number;
}>;

function lines(
  terminal: Terminal,
  agent: string | undefined,
  queue: QueueStats,
  agents: RegistryFigures | null,
): string[] {
  const count = (n: number) => (queue.capped && n >= 10_000 ? `≥ ${n}` : String(n));
  const oldest =
    queue.oldestAgeMs === null ? "" : `, the oldest for ${duration(queue.oldestAgeMs)}`;
  return [
    terminal.style("bold", agent === undefined ? "All mailboxes" : `Mailbox ${agent}`) +
      (queue.paused ? terminal.style("yellow", "  paused") : ""),
    ...terminal.fieldLines([
      ["pending", `${count(queue.pending)}${oldest}`, queue.pending > 0 ? "yellow" : undefined],
      ["scheduled", count(queue.scheduled)],
      ["blocked", count(queue.blocked)],
      ["leased", count(queue.leased), queue.leased > 0 ? "green" : undefined],
      ["dead", count(queue.dead), queue.dead > 0 ? "red" : undefined],
      ["processed", `${queue.messagesPerMinute} in the last minute`],
      [
        "consumers",
        queue.consumers === 0 ? "none is live" : `${queue.consumers} live`,
        queue.consumers === 0 && queue.pending > 0 ? "yellow" : undefined,
      ],
      ["overdue", overdue(queue), "yellow"],
    ]),
    ...(agents === null
      ? []
      : [
          "",
          terminal.style("bold", "Agents"),
          ...terminal.fieldLines([
            ["registered", `${agents.totalAgents}, of them ${agents.availableAgents} with room`],
            ["lost", String(agents.lostAgents), agents.lostAgents > 0 ? "red" : undefined],
            ["tasks", `${agents.currentTasks} of at most ${agents.capacity}`],
            ["load", `${Math.round(agents.averageLoad * 100)} %`],
          ]),
        ]),
  ];
}

/** What upkeep should have done; it takes a moment, so that only what is late for longer is shown. */
function overdue({ lag }: QueueStats): string {
  return Object.entries(lag)
    .flatMap(([name, ms]) =>
      ms === null || ms < 10_000 ? [] : `${OVERDUE[name as keyof typeof lag]} for ${duration(ms)}`,
    )
    .join(", ");
}

const OVERDUE: Readonly<Record<keyof QueueStats["lag"], string>> = {
  expiredMs: "expired messages",
  dueMs: "due messages",
  leaseMs: "leases that passed",
  schedulesMs: "schedules",
  archiveMs: "the archive's purge",
  dedupeMs: "the dedupe keys' purge",
  inboxMs: "the inbox's purge",
  deadLettersMs: "the dead letters' purge",
  conversationsMs: "the conversations' purge",
};

function short(queue: QueueStats): string {
  return `pending ${queue.pending}, scheduled ${queue.scheduled}, leased ${queue.leased}, ${plural(queue.dead, "dead letter")}, ${queue.messagesPerMinute} per minute`;
}

export const operateCommands = [stats, pause, resume];
export const healthCommands = [health];
