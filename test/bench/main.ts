import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { parseArgs } from "node:util";
import { assignmentBench } from "./assignment.ts";
import { queueBench } from "./queue.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "queue" },
    database: { type: "string", default: "postgres,sqlite" },
    postgres: { type: "string" },
    rounds: { type: "string", default: "5" },
    quick: { type: "boolean", default: false },
    json: { type: "string" },
    markdown: { type: "string" },
  },
});
const bench = { queue: queueBench, assignment: assignmentBench }[values.only];
if (bench === undefined) throw new Error("--only is queue or assignment");

// Only the queue has peers.
if (bench === queueBench) {
  const npm = spawnSync("npm", ["ci", "--prefix", import.meta.dirname], {
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (npm.status !== 0) throw new Error("the peers cannot be installed");
}

const { result, text } = await bench({
  databases: values.database.split(",") as ("postgres" | "sqlite")[],
  rounds: values.quick ? 1 : Number(values.rounds),
  quick: values.quick,
  postgres: values.postgres,
  machine: {
    cpus: cpus().length,
    model: cpus()[0]?.model,
    os: release(),
    node: process.version,
  },
  say: (line) => process.stderr.write(`${line}\n`),
});
process.stdout.write(text);
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
if (values.markdown !== undefined) writeFileSync(values.markdown, text);
