import { defineCommand } from "./command.ts";
import { UsageError } from "./exit-codes.ts";
import { pairs, readJson } from "./input.ts";
import { priorityOf } from "./messages.ts";
import { instant, interval, NAME, stateOf, when } from "./schedule-text.ts";
import { wire } from "./text.ts";

export const set = defineCommand({
  name: "schedules set",
  summary: "Send a message again and again: make a schedule, or change it",
  details: [
    "Any running worker fires it, once per due time; repeating the command changes nothing. Where clocks change, a time without * and / is due once, right after the gap where it is skipped; with them, whatever the clock on the wall matches is due.",
    "What passes while no worker runs is made up for by --catch-up: latest sends one message for the newest due time, all one for each (at most --max-catch-up), none only what is less than a minute late.",
  ],
  arguments: NAME,
  options: {
    cron: {
      type: "text",
      value: "EXPRESSION",
      help: "Minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly",
    },
    tz: { type: "text", value: "ZONE", help: "Whose clock: such as Europe/Rome; default UTC" },
    every: { type: "text", value: "INTERVAL", help: "Instead of --cron: 90s, 15min, 6h, 1d" },
    to: { type: "text", value: "AGENT", multiple: "list", help: "The receiving agents (required)" },
    type: { type: "text", short: "t", value: "TYPE", help: "The message type (required)" },
    content: {
      type: "text",
      short: "c",
      value: "JSON",
      help: "As in send: JSON, @FILE or -; default {}",
    },
    from: { type: "text", value: "AGENT", help: "The sender; default system" },
    priority: {
      type: "text",
      value: "PRIORITY",
      help: "LOW, NORMAL, HIGH, CRITICAL, or 0 to 100; default NORMAL",
    },
    "ttl-ms": { type: "number", value: "MS", min: 1, help: "Each message expires this long after" },
    "dedupe-key": {
      type: "text",
      value: "KEY",
      help: "Not sent while a message with this key is remembered",
    },
    header: { type: "text", value: "NAME=VALUE", multiple: "repeat", help: "A header" },
    "catch-up": {
      type: "text",
      choices: ["latest", "all", "none"],
      value: "POLICY",
      help: "What becomes of missed due times; default latest",
    },
    "max-catch-up": {
      type: "number",
      value: "N",
      min: 1,
      max: 1_000,
      help: "With all: the most to make up for; default 100",
    },
    start: { type: "text", value: "INSTANT", help: "Not before this, in ISO 8601" },
    end: { type: "text", value: "INSTANT", help: "Not after this, in ISO 8601" },
    paused: { type: "flag", help: "Paused until `schedules resume`" },
  },
  examples: [
    [
      `schedules set nightly-report --cron "30 2 * * *" --tz Europe/Rome --to reporter --type REPORT`,
      "every night",
    ],
    [
      `schedules set poll --every 90s --to poller --type POLL --catch-up none`,
      "what is late is let go",
    ],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    const { cron, every, tz: timeZone } = options;
    if ((cron === undefined) === (every === undefined)) {
      throw new UsageError(
        "give --cron EXPRESSION or --every INTERVAL, one of them",
        `As in --cron "0 9 * * MON-FRI" --tz Europe/Rome, or --every 15min.`,
      );
    }
    if (timeZone !== undefined && cron === undefined) {
      throw new UsageError("--tz goes with --cron: intervals are the same in every time zone");
    }
    if (options.to.length === 0) throw new UsageError("--to AGENT is missing");
    if (options.type === undefined) throw new UsageError("--type TYPE is missing");
    const trigger = cron === undefined ? { everyMs: interval(String(every)) } : { cron, timeZone };
    const content = await readJson("content", options.content ?? "{}", { terminal, stdin });
    const [only = "", ...others] = options.to;
    const schedule = await (await outbox()).queue.schedules.set(
      args.name,
      trigger,
      {
        toAgent: others.length === 0 ? only : options.to,
        messageType: options.type,
        content: content as object,
        fromAgent: options.from,
        priority: priorityOf(options.priority) as "NORMAL" | undefined,
        ttlMs: options["ttl-ms"],
        dedupeKey: options["dedupe-key"],
        headers: options.header.length === 0 ? undefined : pairs("header", options.header),
      },
      {
        catchUp: options["catch-up"],
        maxCatchUp: options["max-catch-up"],
        startAt: options.start,
        endAt: options.end,
        paused: options.paused ? true : undefined,
      },
    );
    terminal.document(wire(schedule));
    const done = { created: "Made", updated: "Changed", unchanged: "There already:" };
    const next = instant(schedule.nextRunAt, Date.now());
    terminal.say(
      `${done[schedule.outcome]} ${schedule.name}, ${when(schedule)}; ${
        next === null ? `it is ${stateOf(schedule)}` : `next ${next}`
      }.`,
    );
    return undefined;
  },
});
