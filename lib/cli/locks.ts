import { spawn } from "node:child_process";
import { constants } from "node:os";
import { atMost } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { CommandError, EXIT, NotFound, UsageError } from "./exit-codes.ts";
import { plural, relative, wire } from "./text.ts";

const ls = defineCommand({
  name: "locks ls",
  summary: "List the locks that somebody holds",
  options: {
    owner: { type: "text", value: "OWNER", help: "Only of this owner" },
    limit: atMost(100, "The most to list"),
    after: { type: "text", value: "RESOURCE", default: "", help: "Continue after this resource" },
  },
  examples: [["locks ls", "who holds what, and until when"]],
  async run({ options, terminal, outbox }) {
    const { locks } = await outbox();
    const held = await locks.list({
      limit: options.limit,
      after: options.after,
      ...(options.owner === undefined ? {} : { ownerId: options.owner }),
    });
    terminal.document(wire(held));
    if (held.length === 0) {
      terminal.say("Nobody holds a lock.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(held, [
      { title: "RESOURCE", value: ({ resourceId }) => resourceId, flexible: true },
      { title: "OWNER", value: ({ ownerId }) => ownerId, flexible: true },
      { title: "TOKEN", value: ({ fencingToken }) => String(fencingToken), align: "right" },
      { title: "SINCE", value: ({ lockedAt }) => relative(lockedAt, now) },
      { title: "EXPIRES", value: ({ expiresAt }) => relative(expiresAt, now) },
    ]);
    terminal.say(`${plural(held.length, "lock")}.`);
    return undefined;
  },
});

const show = defineCommand({
  name: "locks show",
  summary: "Show who holds a lock",
  arguments: { resource: { help: "The lock's resource" } },
  examples: [["locks show invoices", "its owner, and its fencing token"]],
  async run({ args, terminal, outbox }) {
    const { locks } = await outbox();
    const lock = await locks.get(args.resource);
    if (lock === null) {
      throw new NotFound(`nobody holds ${args.resource}`, "Try `agent-outbox locks ls`.");
    }
    terminal.document(wire(lock));
    const now = Date.now();
    terminal.fields([
      ["resource", lock.resourceId],
      ["owner", lock.ownerId],
      ["fencing token", String(lock.fencingToken)],
      ["since", relative(lock.lockedAt, now)],
      ["expires", relative(lock.expiresAt, now)],
      ["metadata", lock.metadata === null ? null : JSON.stringify(lock.metadata)],
    ]);
    return undefined;
  },
});

const release = defineCommand({
  name: "locks release",
  summary: "Take a lock away from an owner that is gone",
  details: [
    "An owner that still works is told with its next renewal, and its writes under the lock fail; what it does elsewhere goes on until then. A lock that nobody renews expires by itself.",
  ],
  arguments: { resource: { help: "The lock's resource" } },
  options: { force: { type: "flag", help: "Really take it away" } },
  examples: [["locks release invoices --force", "whoever holds it"]],
  async run({ args, options, terminal, outbox }) {
    if (!options.force) {
      throw new UsageError(
        `${args.resource} may still be in use`,
        "Say --force when its owner is gone.",
      );
    }
    const { locks } = await outbox();
    const held = await locks.forceRelease(args.resource);
    if (held === null) {
      throw new NotFound(`nobody holds ${args.resource}`, "Try `agent-outbox locks ls`.");
    }
    terminal.document(wire(held));
    terminal.say(`Took ${args.resource} away from ${held.ownerId}.`);
    return undefined;
  },
});

const run = defineCommand({
  name: "locks run",
  summary: "Run a command while holding a lock",
  details: [
    "The lock is renewed while the command runs and released when it ends. A command whose lock is lost gets SIGTERM. Its exit code is this one's; where the lock is not had in time, it is 1 and nothing runs. The command finds the fencing token in OUTBOX_FENCING_TOKEN.",
  ],
  arguments: {
    resource: { help: "The lock's resource" },
    command: { many: true, help: "What to run, after `--`" },
  },
  options: {
    owner: { type: "text", value: "OWNER", help: "Who holds it; default: this process" },
    ttl: { type: "number", value: "MS", default: 60_000, min: 100, help: "How long it lasts" },
    wait: { type: "number", value: "MS", default: 0, min: 0, help: "How long to wait for it" },
  },
  examples: [["locks run nightly -- ./report.sh --all", "one at a time, on all machines"]],
  async run({ args, options, terminal, signal, env, endsByItself, outbox }) {
    const [program, ...rest] = args.command;
    if (program === undefined) throw new UsageError("there is no command to run after --");
    const { locks } = await outbox();
    endsByItself();
    return locks.withLock(
      args.resource,
      {
        ttlMs: options.ttl,
        waitMs: options.wait,
        signal,
        ...(options.owner === undefined ? {} : { ownerId: options.owner }),
      },
      ({ signal: ended, fencingToken }) =>
        new Promise<number>((resolve, reject) => {
          terminal.clearStatus();
          const child = spawn(program, rest, {
            stdio: "inherit",
            env: { ...env, OUTBOX_FENCING_TOKEN: String(fencingToken) },
          });
          const stop = () => void child.kill(signal.reason === "SIGINT" ? "SIGINT" : "SIGTERM");
          ended.addEventListener("abort", stop, { once: true });
          if (ended.aborted) stop();
          child.on("error", (error) => {
            reject(new CommandError(`${program} did not start: ${error.message}`));
          });
          child.on("close", (code, name) => {
            ended.removeEventListener("abort", stop);
            // As a shell reports it.
            resolve(code ?? (name === null ? EXIT.ERROR : 128 + constants.signals[name]));
          });
        }),
    );
  },
});

export const lockCommands = [ls, show, release, run];
