import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem, type } from "node:os";
import { join } from "node:path";
import { compare, type Results } from "./gate.ts";
import { fileName, svg } from "./plot.ts";
import type { Bench } from "./run.ts";
import { type BenchName, HELP, type Settings, settings, UsageError } from "./settings.ts";
import { SOURCES } from "./subject.ts";

/** Each is loaded only where it is asked for: one that is broken stops no other. */
const BENCH: Record<BenchName, () => Promise<Bench>> = {
  queue: async () => (await import("./queue.ts")).queueBench,
  kinds: async () => (await import("./kinds.ts")).kindsBench,
  assignment: async () => (await import("./assignment.ts")).assignmentBench,
  growth: async () => (await import("./growth.ts")).growthBench,
  latency: async () => (await import("./latency.ts")).latencyBench,
  steady: async () => (await import("./steady.ts")).steadyBench,
  snapshot: async () => (await import("./snapshot.ts")).snapshotBench,
  memory: async () => (await import("./memory.ts")).memoryBench,
};
/** Those that have no peers. */
const ALONE: readonly BenchName[] = ["kinds", "assignment", "memory"];

const say = (line: string) => void process.stderr.write(`${line}\n`);

/** From their own lock, in their own folder; again only when the lock or this Node is another. */
function installPeers(): void {
  const stamp = join(SOURCES, "node_modules", ".bench-installed");
  const wanted = createHash("sha256")
    .update(readFileSync(join(SOURCES, "package-lock.json")))
    .update(process.version)
    .digest("hex");
  try {
    if (readFileSync(stamp, "utf8") === wanted) return;
  } catch {
    // Nothing is installed, or by another program.
  }
  const npm = spawnSync("npm", ["ci", "--prefix", SOURCES], {
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (npm.status !== 0) {
    throw new Error(`the peers cannot be installed: npm ci in ${SOURCES} ended with ${npm.status}`);
  }
  writeFileSync(stamp, wanted);
}

function published(file: string): Results {
  let read: Partial<Results>;
  try {
    read = JSON.parse(readFileSync(file, "utf8")) as Partial<Results>;
  } catch (error) {
    throw new UsageError(
      `--gate cannot read ${file} (${(error as Error).message}): write one with --json ${file}`,
    );
  }
  if (read?.benches === undefined) throw new UsageError(`${file} is no result of --json`);
  return read as Results;
}

async function main(asked: Settings): Promise<number> {
  // Before anything is measured: what cannot be compared or written is told at once.
  const before = asked.gate === undefined ? undefined : published(asked.gate);
  if (before !== undefined && asked.quick) {
    say("--quick is too short to compare: take what follows as a trial of the gate itself");
  }
  if (asked.plots !== undefined) mkdirSync(asked.plots, { recursive: true });
  if (asked.benches.some((name) => !ALONE.includes(name))) installPeers();
  const machine = {
    cpus: availableParallelism(),
    model: cpus()[0]?.model ?? "unknown",
    memory: `${(totalmem() / 2 ** 30).toFixed(1)} GiB`,
    os: `${type()} ${release()}`,
    node: process.version,
  };
  const { databases, rounds, quick, postgres } = asked;
  const benches: Record<string, object> = {};
  const texts: string[] = [];
  for (const name of asked.benches) {
    const bench = await BENCH[name]();
    const { result, text } = await bench({ databases, rounds, quick, postgres, machine, say });
    benches[name] = result;
    texts.push(text.startsWith("# ") ? text : `# ${name}\n\n${text}`);
    process.stdout.write(`${texts.length > 1 ? "\n" : ""}${texts.at(-1)}`);
    for (const curve of result.curves ?? []) {
      if (asked.plots === undefined) break;
      const file = join(asked.plots, fileName(`${name} ${curve.title}`));
      writeFileSync(file, svg(curve));
      say(`drawn: ${file}`);
    }
  }
  const results = { machine, at: new Date().toISOString(), quick, benches };
  if (asked.json !== undefined) writeFileSync(asked.json, `${JSON.stringify(results, null, 2)}\n`);
  if (asked.markdown !== undefined) writeFileSync(asked.markdown, texts.join("\n"));
  if (before === undefined) return 0;
  const { fell, text } = compare(before, results, databases, asked.margin);
  process.stdout.write(`\n# gate\n\n${text}`);
  return fell ? 1 : 0;
}

try {
  const asked = settings(process.argv.slice(2));
  if (asked === undefined) process.stdout.write(HELP);
  else process.exitCode = await main(asked);
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  say(`${error.message}\n--help tells more.`);
  process.exitCode = 2;
}
