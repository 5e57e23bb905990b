import type { Outbox, Schedule } from "../index.ts";
import { atMost } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { NotFound } from "./exit-codes.ts";
import { set } from "./schedule-set.ts";
import { instant, NAME, recipients, stateOf, styleOf, when } from "./schedule-text.ts";
import type { Terminal } from "./terminal.ts";
import { prettyJson, relative, wire } from "./text.ts";

async function known(outbox: Outbox, name: string): Promise<Schedule> {
  const schedule = await outbox.queue.schedules.get(name);
  if (schedule !== null) return schedule;
  throw new NotFound(`there is no schedule ${name}`, "Try `agent-outbox schedules ls`.");
}

const ls = defineCommand({
  name: "schedules ls",
  summary: "List schedules: what is sent when, and what came of it",
  options: {
    limit: atMost(100, "The most to list"),
    after: { type: "text", value: "NAME", help: "Continue after this name" },
  },
  examples: [
    ["schedules ls", "all of them, by name"],
    ["schedules ls --json | jq '.[] | select(.failures > 0)'", "those that cannot be sent"],
  ],
  async run({ options: { limit, after }, terminal, outbox }) {
    const { schedules } = (await outbox()).queue;
    const found = await schedules.list({ limit, ...(after === undefined ? {} : { after }) });
    terminal.document(wire(found));
    if (found.length === 0) {
      terminal.say("No schedules.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(found, [
      { title: "NAME", value: ({ name }) => name, flexible: true },
      { title: "WHEN", value: when, flexible: true },
      { title: "TO", value: recipients, flexible: true },
      { title: "TYPE", value: ({ message }) => message.messageType, flexible: true },
      { title: "STATE", value: stateOf, style: styleOf },
      { title: "NEXT", value: ({ nextRunAt }) => relative(nextRunAt, now) },
      { title: "LAST", value: ({ lastRunAt }) => relative(lastRunAt, now) },
      { title: "RUNS", value: ({ runs }) => String(runs), align: "right" },
      { title: "SKIPPED", value: ({ skipped }) => String(skipped), align: "right" },
    ]);
    if (found.length === limit) terminal.say(`There may be more: --after ${found.at(-1)?.name}`);
    return undefined;
  },
});

function print(terminal: Terminal, schedule: Schedule): void {
  const now = Date.now();
  const { message, lastError } = schedule;
  terminal.fields([
    ["schedule", schedule.name],
    ["when", when(schedule)],
    ["state", stateOf(schedule), styleOf(schedule)],
    ["paused", instant(schedule.pausedAt, now)],
    ["because", schedule.pauseReason],
    ["next", instant(schedule.nextRunAt, now)],
    ["last", instant(schedule.lastRunAt, now)],
    ["sent as", schedule.lastMessageId],
    ["runs", `${schedule.runs}, and ${schedule.skipped} let go`],
    [
      "catch up",
      schedule.catchUp === "all" ? `all, at most ${schedule.maxCatchUp}` : schedule.catchUp,
    ],
    ["from", instant(schedule.startAt, now)],
    ["until", instant(schedule.endAt, now)],
    ["error", lastError === null ? null : `${lastError.code}: ${lastError.message}`, "red"],
    ["failed", schedule.failures === 0 ? null : `${schedule.failures} times in a row`],
    ["to", recipients(schedule)],
    ["type", message.messageType],
  ]);
  terminal.line(terminal.style("dim", "content"));
  terminal.line(prettyJson(message.content, "  "));
}

const show = defineCommand({
  name: "schedules show",
  summary: "Show one schedule with its message",
  arguments: NAME,
  examples: [["schedules show nightly-report", "when it ran, when it will, and why not"]],
  async run({ args, terminal, outbox }) {
    const schedule = await known(await outbox(), args.name);
    terminal.document(wire(schedule));
    if (!terminal.json) print(terminal, schedule);
    return undefined;
  },
});

const next = defineCommand({
  name: "schedules next",
  summary: "Tell when a schedule is due next",
  arguments: NAME,
  options: {
    count: atMost(5, "How many due times"),
  },
  examples: [["schedules next nightly-report -n 10", "the next ten, as if it were not paused"]],
  async run({ args, options, terminal, outbox }) {
    const opened = await outbox();
    const schedule = await known(opened, args.name);
    const dues = await opened.queue.schedules.nextRuns(args.name, options.count);
    const instants = dues.map((due) => new Date(due).toISOString());
    terminal.document({ name: args.name, time_zone: schedule.timeZone, next_runs: instants });
    if (dues.length === 0) terminal.say(`${args.name} has no further due time.`);
    if (schedule.pausedAt !== null) terminal.say(`${args.name} is paused; if it were not:`);
    if (dues.length === 0 || terminal.json) return undefined;
    const clock = new Intl.DateTimeFormat("en-GB", {
      ...{ timeZone: schedule.timeZone ?? "UTC", weekday: "short", timeZoneName: "short" },
      ...{ year: "numeric", month: "2-digit", day: "2-digit", hour12: false },
      ...{ hour: "2-digit", minute: "2-digit", second: "2-digit" },
    });
    const now = Date.now();
    terminal.table(dues, [
      { title: "DUE", value: (due) => new Date(due).toISOString() },
      { title: "THERE", value: (due) => clock.format(due) },
      { title: "IN", value: (due) => relative(due, now) },
    ]);
    return undefined;
  },
});

const pause = defineCommand({
  name: "schedules pause",
  summary: "Send nothing by a schedule until it is resumed",
  details: ["What falls due meanwhile is not made up for."],
  arguments: NAME,
  options: { reason: { type: "text", short: "r", value: "TEXT", help: "Why, for people" } },
  examples: [[`schedules pause nightly-report --reason "books are closed"`, "until resume"]],
  async run({ args, options: { reason }, terminal, outbox }) {
    const opened = await outbox();
    await known(opened, args.name);
    const { schedules } = opened.queue;
    terminal.document(
      wire(await schedules.pause(args.name, reason === undefined ? {} : { reason })),
    );
    terminal.say(`Paused ${args.name}. To undo: agent-outbox schedules resume ${args.name}`);
    return undefined;
  },
});

const resume = defineCommand({
  name: "schedules resume",
  summary: "Send by a paused schedule again, from its next due time on",
  arguments: NAME,
  examples: [["schedules resume nightly-report", "as before the pause"]],
  async run({ args, terminal, outbox }) {
    const opened = await outbox();
    const was = (await known(opened, args.name)).pausedAt !== null;
    const schedule = await opened.queue.schedules.resume(args.name);
    terminal.document(wire({ ...schedule, wasPaused: was }));
    const due = instant(schedule.nextRunAt, Date.now()) ?? "never: it has ended";
    terminal.say(`${was ? `Resumed ${args.name}` : `${args.name} was not paused`}; next ${due}.`);
    return undefined;
  },
});

const rm = defineCommand({
  name: "schedules rm",
  summary: "Delete a schedule; what it has sent stays",
  arguments: NAME,
  examples: [["schedules rm nightly-report", "for good"]],
  async run({ args, terminal, outbox }) {
    const opened = await outbox();
    await known(opened, args.name);
    const removed = await opened.queue.schedules.remove(args.name);
    terminal.document({ name: args.name, removed });
    terminal.say(`Deleted ${args.name}.`);
    return undefined;
  },
});

const run = defineCommand({
  name: "schedules run",
  summary: "Send the message of a schedule now, besides its due times",
  arguments: NAME,
  examples: [["schedules run nightly-report", "today's once more"]],
  async run({ args, terminal, outbox }) {
    const opened = await outbox();
    const schedule = await known(opened, args.name);
    const sent = await opened.queue.schedules.runNow(args.name);
    terminal.document(wire(sent));
    if (terminal.quiet) terminal.line(sent.messageId);
    terminal.say(`Sent ${sent.messageId} to ${recipients(schedule)}.`);
    return undefined;
  },
});

export const scheduleCommands = [ls, set, show, next, pause, resume, run, rm];
