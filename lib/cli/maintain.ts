import { setTimeout as sleep } from "node:timers/promises";
import type { UpkeepReport } from "../index.ts";
import { defineCommand } from "./command.ts";
import { EXIT, exitOfSignal } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { duration, wire } from "./text.ts";

const EVERY_MS = 5_000;

/** What a round does, and the lag that it works off. */
const STEPS: readonly (readonly [
  name: string,
  count: keyof UpkeepReport,
  lag: keyof NonNullable<UpkeepReport["lag"]> | null,
])[] = [
  ["expired messages buried", "expired", "expiredMs"],
  ["due messages promoted", "promoted", "dueMs"],
  ["leases that passed", "more", "leaseMs"],
  ["schedules fired", "schedulesFired", "schedulesMs"],
  ["archive purged", "archivePurged", "archiveMs"],
  ["dedupe keys purged", "dedupePurged", "dedupeMs"],
  ["inbox purged", "inboxPurged", "inboxMs"],
  ["dead letters purged", "deadLettersPurged", "deadLettersMs"],
  ["conversations purged", "conversationsPurged", "conversationsMs"],
  ["consumers purged", "consumersPurged", null],
  ["keys repaired", "keysRepaired", null],
  ["turns forgotten", "turnsForgotten", null],
  ["slots freed", "slotsFreed", null],
  ["limits forgotten", "limitsForgotten", null],
  ["tables vacuumed", "vacuumed", null],
];

const counted = (report: UpkeepReport): number =>
  Object.values(report).reduce<number>(
    (sum, value) => sum + (typeof value === "number" ? value : 0),
    0,
  );

/** The counts of two rounds together, and how the later one left things. */
function added(sum: UpkeepReport | undefined, report: UpkeepReport): UpkeepReport {
  if (sum === undefined) return report;
  const both = { ...sum, ...report } as Record<string, unknown>;
  for (const [name, value] of Object.entries(sum)) {
    if (typeof value === "number") both[name] = value + Number(both[name]);
  }
  return both as unknown as UpkeepReport;
}

function print(terminal: Terminal, report: UpkeepReport): void {
  const { lag } = report;
  const rows = STEPS.map(([name, count, lagName]) => ({
    name,
    count: typeof report[count] === "number" ? String(report[count]) : "–",
    lagMs: lagName === null || lag === null ? null : lag[lagName],
    tells: lagName !== null,
  }));
  terminal.table(rows, [
    { title: "STEP", value: ({ name }) => name },
    { title: "DONE", value: ({ count }) => count, align: "right" },
    {
      title: "OVERDUE",
      value: ({ lagMs, tells }) =>
        lagMs === null ? (tells ? "unknown" : "") : lagMs === 0 ? "no" : duration(lagMs),
      style: ({ lagMs }) => (lagMs !== null && lagMs > 60_000 ? "yellow" : undefined),
    },
  ]);
  for (const { step, code, message } of report.failed) {
    terminal.line(`${terminal.style("red", `failed: ${step}`)}: ${code}: ${message}`);
  }
}

/** One line for a log. */
function short(report: UpkeepReport): string {
  const done = STEPS.flatMap(([name, count]) =>
    typeof report[count] === "number" && report[count] > 0 ? [`${name} ${report[count]}`] : [],
  );
  const failed = report.failed.map(({ step, code }) => `failed: ${step} (${code})`);
  return [...done, ...failed].join(", ") || "nothing to do";
}

export const maintainCommands = [
  defineCommand({
    name: "maintain",
    summary: "Do a round of upkeep now: expire, promote, purge, repair",
    details: [
      "Every running worker does it every few seconds, and any number may at once; this is for outboxes without workers, and for looking. A round is bounded (500 rows per step), so that it holds nothing up. OVERDUE is how late the oldest is that is still to be done.",
    ],
    options: {
      "until-done": { type: "flag", help: "Rounds until nothing is left" },
      watch: {
        type: "flag",
        short: "w",
        help: "A round every 5 s until Ctrl-C; with --json a line each",
      },
    },
    examples: [
      ["maintain", "one round, and how far behind it is"],
      ["maintain --until-done", "after a long stand-still, with progress"],
      ["maintain --watch --json", "as a process of its own, for a log"],
    ],
    async run({ options, terminal, signal, outbox }) {
      const { queue } = await outbox();
      if (options.watch) {
        while (!signal.aborted) {
          const report = await queue.maintain();
          const timestamp = new Date().toISOString();
          terminal.item(wire({ timestamp, ...report }));
          if (!terminal.json && (!terminal.quiet || report.failed.length > 0)) {
            terminal.line(`${timestamp} ${short(report)}`);
          }
          if (report.more && counted(report) > 0) continue;
          await sleep(EVERY_MS, undefined, { signal }).catch(() => {});
        }
        return exitOfSignal(signal);
      }
      let report = await queue.maintain();
      let rounds = 1;
      while (options["until-done"] && report.more && !signal.aborted) {
        terminal.status(`round ${++rounds}: ${short(report)}`);
        report = added(report, await queue.maintain());
      }
      terminal.clearStatus();
      terminal.document(wire({ rounds, ...report }));
      if (!terminal.json) print(terminal, report);
      if (report.more) {
        terminal.say("There is more to do or to look at: agent-outbox maintain --until-done");
      }
      return report.failed.length > 0 ? EXIT.ERROR : undefined;
    },
  }),
];
