import type { DeadLetter, DeadLetterProgress } from "../index.ts";
import { type Command, defineCommand } from "./command.ts";
import { confirmed } from "./confirm.ts";
import { edit } from "./dead-letter-edit.ts";
import { CHOICE, chosen } from "./dead-letter-filter.ts";
import { EXIT, exitOfSignal } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { duration, plural, relative, wire } from "./text.ts";

/** Fewer than this are done before anybody would read a bar. */
const WORTH_A_BAR = 200;

const redrive = defineCommand({
  name: "dlq redrive",
  summary: "Send dead letters again, with all their runs before them",
  details: [
    "With --rate, the messages themselves are scheduled one after the other: the rate holds although this command ends.",
    "Ctrl-C ends it after the step that runs. What was sent stays sent, the rest are dead letters still.",
  ],
  arguments: { id: { many: true, optional: true, help: "Message ids" } },
  options: {
    ...CHOICE,
    to: { type: "text", value: "AGENT", help: "Into another mailbox" },
    rate: {
      type: "number",
      value: "N",
      min: 1,
      max: 100_000,
      help: "How many become ready per second; default all at once",
    },
    "delay-ms": { type: "number", value: "MS", default: 0, help: "How long from now" },
  },
  examples: [
    ["dlq redrive order-17", "one message"],
    ["dlq redrive --agent billing --reason max_attempts --dry-run", "what would be sent"],
    ["dlq redrive --agent billing --rate 10", "after the cause was mended, gently"],
    ["dlq redrive --all --limit 10", "the oldest ten first"],
  ],
  async run({ args, options, terminal, signal, endsByItself, outbox }) {
    const choice = chosen(args.id, options);
    const { queue } = await outbox();
    const wanted = {
      ...choice,
      toAgent: options.to,
      delayMs: options["delay-ms"],
      perSecond: options.rate,
    };
    const none = (count: number) => (args.id.length > 0 && count === 0 ? EXIT.NOT_FOUND : EXIT.OK);
    if (options["dry-run"]) {
      const result = await queue.deadLetters.redrive(wanted, { dryRun: true });
      terminal.document(wire(result));
      showSample(terminal, result, "would be sent again");
      return none(result.matched);
    }
    const bar = await watchable(terminal, () =>
      queue.deadLetters.redrive(wanted, { dryRun: true }),
    );
    endsByItself();
    const result = await queue.deadLetters.redrive(wanted, { signal, onProgress: bar });
    terminal.document(wire(result));
    terminal.clearStatus();
    if (result.stopped) terminal.afterInterrupt();
    terminal.say(`Sent ${plural(result.redriven, "dead letter")} again.`);
    if (result.lastDelayMs > 0) {
      terminal.say(`The last becomes ready in ${duration(result.lastDelayMs)}.`);
    }
    showRest(terminal, result, result.redriven, options.limit);
    return result.stopped ? exitOfSignal(signal) : none(result.redriven);
  },
});

const discard = defineCommand({
  name: "dlq discard",
  summary: "Delete dead letters for good",
  details: ["Asks first, but only at a terminal: scripts are not asked, with or without --yes."],
  arguments: { id: { many: true, optional: true, help: "Message ids" } },
  options: { ...CHOICE, yes: { type: "flag", short: "y", help: "Do not ask" } },
  examples: [
    ["dlq discard order-17", "one message"],
    ["dlq discard --fingerprint 9f86d081884c7d65 --dry-run", "what would be deleted"],
    ["dlq discard --reason expired --before 2024-01-01 --yes", "old ones, from a script"],
  ],
  async run({ args, options, terminal, stdin, signal, endsByItself, outbox }) {
    const choice = chosen(args.id, options);
    const { queue } = await outbox();
    const none = (count: number) => (args.id.length > 0 && count === 0 ? EXIT.NOT_FOUND : EXIT.OK);
    const dry = () => queue.deadLetters.discard(choice, { dryRun: true });
    if (options["dry-run"]) {
      const result = await dry();
      terminal.document(wire(result));
      showSample(terminal, result, "would be deleted");
      return none(result.matched);
    }
    if (!options.yes && terminal.interactive && !terminal.json) {
      const { matched } = await dry();
      const question = `Delete ${plural(matched, "dead letter")} for good?`;
      if (matched > 0 && !(await confirmed(terminal, stdin, question))) {
        terminal.say("Nothing was changed.");
        return undefined;
      }
    }
    const bar = await watchable(terminal, dry);
    endsByItself();
    const result = await queue.deadLetters.discard(choice, { signal, onProgress: bar });
    terminal.document(wire(result));
    terminal.clearStatus();
    if (result.stopped) terminal.afterInterrupt();
    terminal.say(`Deleted ${plural(result.discarded, "dead letter")}.`);
    showRest(terminal, result, result.discarded, options.limit);
    return result.stopped ? exitOfSignal(signal) : none(result.discarded);
  },
});

/** Its name in the library's first contract; scripts may have it. */
const purge: Command = {
  ...discard,
  name: "dlq purge",
  summary: "The same as `dlq discard`",
  examples: [["dlq purge order-17", "one message"]],
};

/** Draws how far it is, where a person watches and it takes long enough. */
async function watchable(
  terminal: Terminal,
  count: () => Promise<{ readonly matched: number }>,
): Promise<((progress: DeadLetterProgress) => void) | undefined> {
  if (!terminal.interactive || terminal.json || terminal.quiet) return undefined;
  const { matched: total } = await count();
  if (total < WORTH_A_BAR) return undefined;
  const { Format, Presets } = (await import("cli-progress")).default;
  const barsize = 24;
  const options = {
    barsize,
    barGlue: "",
    barCompleteString: Presets.shades_classic.barCompleteChar.repeat(barsize),
    barIncompleteString: Presets.shades_classic.barIncompleteChar.repeat(barsize),
  };
  return ({ matched }) => {
    const bar = Format.BarFormat(Math.min(1, matched / total), options);
    terminal.status(`${bar} ${matched} of ${total} dead letters`);
  };
}

function showSample(
  terminal: Terminal,
  { matched, sample }: { readonly matched: number; readonly sample: readonly DeadLetter[] },
  what: string,
): void {
  const now = Date.now();
  if (sample.length > 0) {
    terminal.table(sample, [
      { title: "MESSAGE", value: ({ messageId }) => messageId, flexible: true },
      { title: "MAILBOX", value: ({ toAgent }) => toAgent, flexible: true },
      { title: "TYPE", value: ({ messageType }) => messageType, flexible: true },
      { title: "REASON", value: ({ reason }) => reason, style: () => "red" },
      { title: "FAILED", value: ({ failedAt }) => relative(failedAt, now) },
    ]);
    if (matched > sample.length) terminal.line(`… and ${matched - sample.length} more`);
  }
  terminal.say(`${plural(matched, "dead letter")} ${what}; nothing was changed.`);
}

function showRest(
  terminal: Terminal,
  result: { readonly matched: number; readonly stopped: boolean },
  done: number,
  limit: number,
): void {
  if (result.matched > done) {
    terminal.say(`Someone else took ${result.matched - done} of them first.`);
  }
  if (result.stopped) terminal.say("Stopped: the rest are dead letters still.");
  else if (done >= limit) terminal.say("There may be more: run it again, or raise --limit.");
}

export const deadLetterActs = [redrive, edit, discard, purge];
