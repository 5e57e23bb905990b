import type { LimitInput, Outbox } from "../index.ts";
import { defineCommand } from "./command.ts";
import { NotFound, UsageError } from "./exit-codes.ts";
import { decimal, rate, shortRate, span } from "./spans.ts";
import { duration, relative, wire } from "./text.ts";

type LimitInfo = Awaited<ReturnType<Outbox["queue"]["limits"]["list"]>>[number];

const NAME = { name: { help: "The limit's name" } } as const;

const amount = (n: number) => String(Math.round(n * 100) / 100);

function missing(name: string): NotFound {
  return new NotFound(`there is no limit ${name}`, "Try `agent-outbox limits ls`.");
}

async function known(outbox: Outbox, name: string): Promise<LimitInfo> {
  const limit = await outbox.queue.limits.get(name);
  if (limit === null) throw missing(name);
  return limit;
}

const about = ({ agentId, messageType }: LimitInfo): string =>
  [agentId ?? "all mailboxes", ...(messageType === null ? [] : [messageType])].join(", ");

const inFlight = (limit: LimitInfo): string =>
  limit.maxInFlight === null ? "–" : `${limit.inFlight} of ${limit.maxInFlight}`;

const bucket = ({ rate: given, tokens }: LimitInfo): string =>
  given === null ? "–" : `${amount(tokens ?? 0)} of ${amount(given.burst)}`;

const ls = defineCommand({
  name: "limits ls",
  summary: "List limits: what they are about, and how much of them is used",
  examples: [
    ["limits ls", "all of them, by name"],
    ["limits ls --json | jq '.[] | select(.parked_until != null)'", "those that wait"],
  ],
  async run({ terminal, outbox }) {
    const found = await (await outbox()).queue.limits.list();
    terminal.document(wire(found.map(withInstants)));
    if (found.length === 0) {
      terminal.say("No limits. To make one: agent-outbox limits set NAME --max-in-flight N");
      return undefined;
    }
    const now = Date.now();
    terminal.table(found, [
      { title: "NAME", value: ({ name }) => name, flexible: true },
      { title: "ABOUT", value: about, flexible: true },
      {
        title: "IN FLIGHT",
        value: inFlight,
        style: (limit) =>
          limit.inFlight === limit.maxInFlight && limit.inFlight !== null ? "yellow" : undefined,
      },
      { title: "RATE", value: ({ rate: given }) => (given === null ? "–" : shortRate(given)) },
      {
        title: "BUCKET",
        value: bucket,
        style: ({ tokens }) => (tokens !== null && tokens < 1 ? "yellow" : undefined),
      },
      { title: "PARKED", value: ({ parkedUntil }) => relative(parkedUntil, now) },
    ]);
    return undefined;
  },
});

/** `until` is an instant by its own name only. */
function withInstants(limit: LimitInfo) {
  const { parkedUntil } = limit;
  return {
    ...limit,
    parkedUntil: parkedUntil === null ? null : new Date(parkedUntil).toISOString(),
  };
}

const set = defineCommand({
  name: "limits set",
  summary: "Limit what is in flight or passes in a time: make a limit, or change it",
  details: [
    "Exact for all processes, at once, while they run. What is over a limit waits: it is not refused, and it loses no run. What is not given stays as it is.",
    "A rate counts messages, or the sum of their costs where they have one, such as the tokens of a language model.",
  ],
  arguments: NAME,
  options: {
    agent: { type: "text", value: "AGENT", help: "Only this mailbox; default all, together" },
    type: {
      type: "text",
      short: "t",
      value: "TYPE",
      help: "Only this type; default all, together",
    },
    "max-in-flight": {
      type: "number",
      value: "N",
      min: 1,
      max: 10_000,
      help: "At most so many are worked on at a time",
    },
    rate: { type: "text", value: "AMOUNT/TIME", help: "At most so much passes: 90000/min, 10/s" },
    burst: { type: "text", value: "N", help: "The most that passes at once; default the amount" },
    "no-max-in-flight": { type: "flag", help: "As many in flight as come" },
    "no-rate": { type: "flag", help: "As much in a time as comes" },
  },
  examples: [
    ["limits set gpt --agent writer --rate 90000/min --burst 5000", "tokens of a model per minute"],
    ["limits set reports --type REPORT --max-in-flight 2", "two at a time, in all mailboxes"],
    ["limits set reports --max-in-flight 5", "five from now on"],
  ],
  async run({ args, options, terminal, outbox }) {
    const { agent, type, burst } = options;
    const { limits } = (await outbox()).queue;
    const before = await limits.get(args.name);
    const most = options["no-max-in-flight"]
      ? undefined
      : (options["max-in-flight"] ?? before?.maxInFlight ?? undefined);
    const given = options.rate === undefined ? undefined : rate("--rate", options.rate);
    const base = options["no-rate"] ? undefined : (given ?? before?.rate ?? undefined);
    if (most === undefined && base === undefined) {
      throw new UsageError(
        "give --max-in-flight N, --rate AMOUNT/TIME or both",
        before === null
          ? "As in --max-in-flight 2, or --rate 10/s."
          : `A limit of nothing is none: \`agent-outbox limits rm ${args.name}\`.`,
      );
    }
    if (burst !== undefined && base === undefined) {
      throw new UsageError("--burst goes with --rate", "As in --rate 10/s --burst 50.");
    }
    const limit: LimitInput = {
      agentId: agent ?? before?.agentId ?? undefined,
      messageType: type ?? before?.messageType ?? undefined,
      ...(most === undefined ? {} : { maxInFlight: most }),
      ...(base === undefined
        ? {}
        : {
            rate: { ...base, ...(burst === undefined ? {} : { burst: decimal("--burst", burst) }) },
          }),
    };
    const made = await limits.set(args.name, limit);
    terminal.document(wire(withInstants(made)));
    const parts = [
      ...(made.maxInFlight === null ? [] : [`at most ${made.maxInFlight} in flight`]),
      ...(made.rate === null
        ? []
        : [`${shortRate(made.rate)}, at once ${amount(made.rate.burst)}`]),
    ];
    terminal.say(
      `${before === null ? "Made" : "Changed"} ${made.name} for ${about(made)}: ${parts.join("; ")}.`,
    );
    return undefined;
  },
});

const rm = defineCommand({
  name: "limits rm",
  summary: "Take a limit away",
  arguments: NAME,
  examples: [["limits rm reports", "what waited for it goes on at once"]],
  async run({ args, terminal, outbox }) {
    if (!(await (await outbox()).queue.limits.remove(args.name))) throw missing(args.name);
    terminal.document({ name: args.name, removed: true });
    terminal.say(`Removed ${args.name}.`);
    return undefined;
  },
});

const park = defineCommand({
  name: "limits park",
  summary: "Let nothing pass a limit for a while: the other side said to wait",
  details: [
    "One that is parked for longer stays so. Workers do it themselves after a retry-after.",
  ],
  arguments: { ...NAME, time: { help: "For how long: 30s, 5min, 1h" } },
  examples: [["limits park gpt 2min", "two minutes of quiet"]],
  async run({ args, terminal, outbox }) {
    const forMs = span("TIME", args.time);
    const opened = await outbox();
    await known(opened, args.name);
    await opened.queue.limits.park(args.name, forMs);
    const limit = await known(opened, args.name);
    terminal.document(wire(withInstants(limit)));
    terminal.say(
      `Parked ${args.name}; it goes on ${relative(limit.parkedUntil, Date.now())}${
        (limit.parkedUntil ?? 0) > Date.now() + forMs + 1_000 ? ", as it was told before" : ""
      }.`,
    );
    return undefined;
  },
});

const charge = defineCommand({
  name: "limits charge",
  summary: "Take more from the bucket of a limit, or give back",
  details: ["What a call really took may be known only afterwards."],
  arguments: { ...NAME, cost: { help: "How much" } },
  options: { back: { type: "flag", help: "Give it back instead" } },
  examples: [
    ["limits charge gpt 1200", "it took 1,200 more than was thought"],
    ["limits charge gpt 300 --back", "it took less"],
  ],
  async run({ args, options, terminal, outbox }) {
    const cost = decimal("COST", args.cost);
    const opened = await outbox();
    await known(opened, args.name);
    if (!(await opened.queue.limits.charge(args.name, options.back ? -cost : cost))) {
      throw new UsageError(
        `the limit ${args.name} has no bucket`,
        `Give it one: \`agent-outbox limits set ${args.name} --rate AMOUNT/TIME\`.`,
      );
    }
    const limit = await known(opened, args.name);
    terminal.document(wire(withInstants(limit)));
    const { tokens, rate: given } = limit;
    const debt = tokens === null || given === null || tokens >= 0 ? 0 : -tokens;
    const owed = given === null ? 0 : (debt * given.perMs) / given.amount;
    terminal.say(
      `The bucket of ${args.name} holds ${bucket(limit)}${debt > 0 ? `; paid off in ${duration(owed)}` : ""}.`,
    );
    return undefined;
  },
});

export const limitCommands = [ls, set, rm, park, charge];
