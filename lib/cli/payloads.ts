import { defineCommand } from "./command.ts";
import { exitOfSignal } from "./exit-codes.ts";
import { plural, wire } from "./text.ts";

const sweep = defineCommand({
  name: "payloads sweep",
  summary: "Delete large contents in the claim-check folder that no message needs",
  details: [
    "Such contents are left by transactions that were rolled back and by processes that died. Workers delete them about hourly, too. The folder is OUTBOX_CLAIM_CHECK_DIR.",
  ],
  options: {
    "dry-run": { type: "flag", help: "Only count them" },
    "older-than-ms": {
      type: "number",
      value: "MS",
      min: 60_000,
      default: 86_400_000,
      help: "Only those stored longer ago: younger ones may belong to an open transaction",
    },
  },
  examples: [
    ["payloads sweep --dry-run", "how many there are"],
    ["payloads sweep --older-than-ms 3600000", "where no transaction takes an hour"],
  ],
  async run({ options, terminal, signal, outbox, endsByItself }) {
    const { queue } = await outbox();
    endsByItself();
    const report = await queue.sweepPayloads({
      olderThanMs: options["older-than-ms"],
      dryRun: options["dry-run"],
      signal,
    });
    terminal.document(wire(report));
    const found = `Of ${plural(report.seen, "content")} in the store, ${report.orphaned} belonged to no message any more`;
    terminal.say(
      report.dryRun ? `${found}; nothing was deleted.` : `${found}; deleted ${report.deleted}.`,
    );
    return report.stopped ? exitOfSignal(signal) : undefined;
  },
});

export const payloadCommands = [sweep];
