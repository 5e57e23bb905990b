import type { MailboxSettingsInput, Outbox } from "../index.ts";
import { defineCommand } from "./command.ts";
import { library } from "./context.ts";
import { UsageError } from "./exit-codes.ts";
import { readObject } from "./input.ts";
import { shortSpan, span, whole } from "./spans.ts";
import { suggest } from "./suggest.ts";
import type { Terminal } from "./terminal.ts";
import { relative, wire } from "./text.ts";

type MailboxInfo = Awaited<ReturnType<Outbox["queue"]["mailboxes"]["get"]>>;
type Breaker = NonNullable<MailboxInfo["breaker"]>;

const AGENT = { agent: { help: "Whose mailbox" } } as const;

const yellow = (wanted: boolean) => (wanted ? ("yellow" as const) : undefined);

function breakerText({ failureThreshold, recoveryTimeoutMs, monitoringPeriodMs }: Breaker): string {
  return `${failureThreshold}/${shortSpan(recoveryTimeoutMs)}/${shortSpan(monitoringPeriodMs)}`;
}

function breakerState({ state, until, failures, failureThreshold }: Breaker, now: number): string {
  if (state === "half_open") return "half open: one message is let through to try";
  if (state === "open") {
    return until !== null && until > now
      ? `open, until ${new Date(until).toISOString()} (${relative(until, now)})`
      : "open, until the next message is tried";
  }
  return failures === 0 ? "closed" : `closed, ${failures} of ${failureThreshold} failures`;
}

/** What is set, as `mailboxes set` takes it. */
function settingsOf(mailbox: MailboxInfo): string[] {
  const { keyLimit, onDeadLetter, agingMs, fair, maxDepth, retryPolicy, breaker } = mailbox;
  return [
    ...(keyLimit === null ? [] : [`key-limit ${keyLimit}`]),
    ...(onDeadLetter === null ? [] : [`on-dead-letter ${onDeadLetter}`]),
    ...(agingMs === null ? [] : [`aging ${shortSpan(agingMs)}`]),
    ...(fair ? ["fair"] : []),
    ...(maxDepth === null ? [] : [`max-depth ${maxDepth}`]),
    ...(retryPolicy === null ? [] : ["retry-policy"]),
    ...(breaker === null ? [] : [`breaker ${breakerText(breaker)}`]),
  ];
}

const ls = defineCommand({
  name: "mailboxes ls",
  summary: "List mailboxes for which something is set or was",
  details: ["Other mailboxes need no setting: they are there with the first message."],
  examples: [["mailboxes ls", "what is set, paused, or open"]],
  async run({ terminal, outbox }) {
    const found = await (await outbox()).queue.mailboxes.list();
    terminal.document(wire(found));
    if (found.length === 0) {
      terminal.say("No mailbox has a setting of its own.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(found, [
      { title: "MAILBOX", value: ({ agentId }) => agentId, flexible: true },
      {
        title: "PAUSED",
        value: ({ pausedAt }) => relative(pausedAt, now),
        style: ({ pausedAt }) => yellow(pausedAt !== null),
      },
      {
        title: "BREAKER",
        value: ({ breaker }) => breaker?.state.replace("_", " ") ?? "–",
        style: ({ breaker }) => yellow(breaker !== null && breaker.state !== "closed"),
      },
      {
        title: "SETTINGS",
        value: (mailbox) => settingsOf(mailbox).join(", ") || "–",
        flexible: true,
      },
    ]);
    return undefined;
  },
});

async function print(terminal: Terminal, outbox: Outbox, mailbox: MailboxInfo): Promise<void> {
  const now = Date.now();
  const { agentId, pausedAt, keyLimit, onDeadLetter, agingMs, maxDepth, breaker } = mailbox;
  const consumers = await outbox.queue.consumers(agentId);
  const retry = mailbox.retryPolicy === null ? null : JSON.stringify(mailbox.retryPolicy);
  terminal.fields([
    ["mailbox", agentId],
    ["paused", pausedAt === null ? "no" : relative(pausedAt, now), yellow(pausedAt !== null)],
    ["because", mailbox.pauseReason],
    ["key limit", `${keyLimit ?? "1 (default)"} of a concurrency key at a time`],
    ["on dead letter", onDeadLetter ?? "skip (default)"],
    ["aging", agingMs === null ? "off" : `${shortSpan(agingMs)} make up for one level of priority`],
    ["fair", mailbox.fair ? "contexts take turns" : "no"],
    ["max depth", maxDepth === null ? "none" : String(maxDepth)],
    ["retry policy", retry ?? "the queue's"],
    [
      "breaker",
      breaker === null ? "none" : `${breakerText(breaker)}, ${breaker.whenOpen} when open`,
    ],
    [
      "state",
      breaker === null ? null : breakerState(breaker, now),
      yellow(breaker !== null && breaker.state !== "closed"),
    ],
  ]);
  if (consumers.length === 0) {
    terminal.line(`${terminal.style("dim", "consumers")}  none was seen within a day`);
    return;
  }
  terminal.line();
  terminal.table(consumers, [
    { title: "CONSUMER", value: ({ workerId }) => workerId, flexible: true },
    {
      title: "LIVE",
      value: ({ live }) => (live ? "yes" : "no"),
      style: ({ live }) => (live ? "green" : "dim"),
    },
    { title: "SEEN", value: ({ seenAt }) => relative(seenAt, now) },
    {
      title: "TYPES",
      value: ({ messageTypes }) => messageTypes?.join(", ") ?? "all",
      flexible: true,
    },
  ]);
}

const show = defineCommand({
  name: "mailboxes show",
  summary: "Show what a mailbox is set to, where its breaker stands, and who consumes it",
  arguments: AGENT,
  examples: [["mailboxes show billing", "its settings and consumers"]],
  async run({ args, terminal, outbox }) {
    const opened = await outbox();
    const mailbox = await opened.queue.mailboxes.get(args.agent);
    if (terminal.json) {
      const consumers = await opened.queue.consumers(args.agent);
      terminal.document(wire({ ...mailbox, consumers }));
    } else await print(terminal, opened, mailbox);
    return undefined;
  },
});

/** Undefined: not given. Null: `none`. */
function settingOf<T>(text: string | undefined, read: (text: string) => T): T | null | undefined {
  return text === undefined ? undefined : text === "none" ? null : read(text);
}

/** `5/30s/10s`: failures, time open, time in which they are counted; the rest by default, or as it was. */
function breakerOf(text: string, before: Breaker | null): Partial<Breaker> {
  const [failures = "", recovery, period, ...others] = text.split("/");
  if (others.length > 0) {
    throw new UsageError(
      `--breaker: expected FAILURES/OPEN/WITHIN, got "${text}"`,
      "Write it as in --breaker 5/30s/10s, or --breaker 5.",
    );
  }
  const rest = before ?? undefined;
  const recoveryTimeoutMs =
    recovery === undefined ? rest?.recoveryTimeoutMs : span("--breaker", recovery);
  const monitoringPeriodMs =
    period === undefined ? rest?.monitoringPeriodMs : span("--breaker", period);
  return {
    failureThreshold: whole("--breaker", failures),
    ...(recoveryTimeoutMs === undefined ? {} : { recoveryTimeoutMs }),
    ...(monitoringPeriodMs === undefined ? {} : { monitoringPeriodMs }),
  };
}

const set = defineCommand({
  name: "mailboxes set",
  summary: "Change what a mailbox is set to; what is not given stays",
  details: [
    "For all processes, while they run; they know within a few seconds. `none` takes a setting back to its default.",
    "The breaker opens after so many failed runs within a time, keeps messages waiting for another, then lets one through to try: --breaker FAILURES/OPEN/WITHIN.",
  ],
  arguments: AGENT,
  options: {
    "key-limit": {
      type: "text",
      value: "N",
      help: "How many messages of one concurrency key may be in flight; default 1",
    },
    "on-dead-letter": {
      type: "text",
      choices: ["skip", "halt", "none"],
      value: "POLICY",
      help: "What a dead head does to its ordering key: halt waits for a person; default skip",
    },
    aging: {
      type: "text",
      value: "TIME",
      help: "So much waiting makes up for one level of priority: 60s; default none",
    },
    fair: { type: "flag", help: "Contexts take turns" },
    "no-fair": { type: "flag", help: "Contexts do not take turns (default)" },
    breaker: { type: "text", value: "BREAKER", help: "Such as 5/30s/10s, or 5; default none" },
    "breaker-when-open": {
      type: "text",
      choices: ["hold", "fail"],
      value: "WHAT",
      help: "While open: hold keeps messages waiting, fail refuses to take any; default hold",
    },
    "no-breaker": { type: "flag", help: "As --breaker none" },
    "max-depth": { type: "text", value: "N", help: "The most that may wait; default none" },
    "retry-policy": {
      type: "text",
      value: "POLICY",
      help: "JSON, @FILE, - or a name such as rate_limit; default the queue's",
    },
  },
  examples: [
    ["mailboxes set billing --on-dead-letter halt --key-limit 2", "for keys"],
    ["mailboxes set mailer --breaker 5/30s/10s --breaker-when-open fail", "for what may be down"],
    ["mailboxes set search --aging 60s --fair", "so that nobody starves"],
    [`mailboxes set mailer --retry-policy '{"maxAttempts":8}' --no-breaker`, "and back"],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    if (options.fair && options["no-fair"]) throw new UsageError("give --fair or --no-fair");
    if (options["no-breaker"] && (options.breaker ?? options["breaker-when-open"]) !== undefined) {
      throw new UsageError("--no-breaker goes with no other option of the breaker");
    }
    const read = settingOf(options["retry-policy"], (text) => text);
    const retryPolicy =
      typeof read !== "string"
        ? read
        : /^[{@-]/.test(read)
          ? await readObject("retry-policy", read, { terminal, stdin })
          : await namedPolicy(read);
    const when = options["breaker-when-open"];
    const settings: Record<string, unknown> = {
      keyLimit: settingOf(options["key-limit"], (text) => whole("--key-limit", text)),
      onDeadLetter: settingOf(options["on-dead-letter"], (text) => text),
      agingMs: settingOf(options.aging, (text) => span("--aging", text)),
      fair: options.fair ? true : options["no-fair"] ? null : undefined,
      maxDepth: settingOf(options["max-depth"], (text) => whole("--max-depth", text)),
      retryPolicy,
    };
    const { mailboxes } = (await outbox()).queue;
    if (options["no-breaker"] || options.breaker === "none") settings.breaker = null;
    else if (options.breaker !== undefined || when !== undefined) {
      const { breaker: before } = await mailboxes.get(args.agent);
      if (before === null && options.breaker === undefined) {
        throw new UsageError(
          `the mailbox ${args.agent} has no breaker`,
          "Give it one as well: --breaker 5/30s/10s.",
        );
      }
      const given = options.breaker ?? String(before?.failureThreshold);
      settings.breaker = {
        ...breakerOf(given, before),
        whenOpen: when ?? before?.whenOpen ?? "hold",
      };
    }
    const changes = Object.fromEntries(
      Object.entries(settings).filter(([, value]) => value !== undefined),
    );
    if (Object.keys(changes).length === 0) {
      throw new UsageError(
        "nothing to set",
        `Such as --key-limit 2; \`agent-outbox mailboxes show ${args.agent}\` tells what there is.`,
      );
    }
    const made = await mailboxes.set(args.agent, changes as MailboxSettingsInput);
    terminal.document(wire(made));
    terminal.say(`Set ${made.agentId}: ${settingsOf(made).join(", ") || "all by default"}.`);
    return undefined;
  },
});

async function namedPolicy(name: string): Promise<unknown> {
  const { RETRY_POLICIES } = await library();
  const policy = (RETRY_POLICIES as Record<string, unknown>)[name];
  if (policy !== undefined) return policy;
  const names = Object.keys(RETRY_POLICIES);
  const meant = suggest(name, names);
  throw new UsageError(
    `--retry-policy: there is no policy ${name}; there are ${names.join(", ")}`,
    meant === undefined
      ? `Or write one as JSON, as in '{"maxAttempts":5,"initialDelayMs":2000}'.`
      : `Did you mean --retry-policy ${meant}?`,
  );
}

export const mailboxCommands = [ls, show, set];
