import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AgentRegistry, type Outbox, openOutbox, type TaskInput } from "../../lib/index.ts";
import { assignmentMarkdown, type Measured } from "./assignment-report.ts";
import { type Place, place } from "./place.ts";
import type { Bench } from "./run.ts";

const SIZES = [1_000, 10_000];
const BATCH = 500;
const SUPERVISORS = 4;
const CALLS = 31;
const AT_ONCE = 16;

/** Twenty for each agent: names, a version, numbers and texts. */
function capabilitiesOf(n: number, agents: number): string[] {
  const skills = Array.from({ length: 16 }, (_, i) => `skill-${(n * 7 + i) % 200}`);
  return [
    ...skills,
    // As many as there are, twenty can do it.
    n % (agents / 20) === 0 ? "rare" : `gpu=${n % 10 === 1}`,
    `python@3.${5 + (n % 10)}`,
    `memory_gb=${16 << (n % 6)}`,
    `region=${["eu", "us", "ap"][n % 3]}`,
  ];
}

const FINDS: Record<string, string[]> = {
  "find: a selective requirement": ["rare", "region in (eu, us, ap)"],
  "find: a common requirement": ["region in (eu, us)"],
  "find: a versioned requirement": ["python >= 3.12"],
};

const NEEDS = Array.from({ length: 20 }, (_, n): string[] =>
  n % 4 === 0
    ? [`skill-${n * 10}`]
    : n % 4 === 1
      ? [`skill-${n * 10}`, "python >= 3.9"]
      : n % 4 === 2
        ? [`python >= 3.${5 + (n % 8)}`, "memory_gb >= 64"]
        : [`region = ${["eu", "us", "ap"][n % 3]}`, `skill-${n * 10}`],
);

function tasksOf(count: number): TaskInput[][] {
  const all = Array.from({ length: count }, (_, n) => ({
    taskType: "bench",
    description: "a task",
    requiredCapabilities: NEEDS[n % NEEDS.length] as string[],
    parameters: { n, text: "x".repeat(180) },
  }));
  return Array.from({ length: Math.ceil(count / BATCH) }, (_, n) =>
    all.slice(n * BATCH, (n + 1) * BATCH),
  );
}

async function register(outbox: Outbox, agents: number): Promise<void> {
  // A registry that no supervisor listens to: parked tasks stay parked.
  const registry = new AgentRegistry(outbox.knex);
  let next = 0;
  const one = async () => {
    for (let n = next++; n < agents; n = next++) {
      await registry.registerAgent({
        agentId: `agent-${n}`,
        capabilities: capabilitiesOf(n, agents),
        maxConcurrentTasks: 100,
        staleAfterMs: 86_400_000,
      });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
}

/** A database with agents, and one where tasks wait that were there before them. Nobody is connected to either. */
async function bases(at: Place, agents: number, tasks: number): Promise<[string, string]> {
  const opened = async (name: string, parked: number) => {
    const url = await at.empty(name);
    // Closed before the first agent comes: whoever parks tasks looks for agents in the background.
    const first = await openOutbox({ database: url, migrate: true });
    const boss = first.supervisor("boss");
    for (const batch of tasksOf(parked)) await boss.assignTasks(batch);
    await first.close();
    const outbox = await openOutbox({ database: url });
    await register(outbox, agents);
    await outbox.knex.raw(url.startsWith("sqlite") ? "ANALYZE" : "VACUUM ANALYZE");
    await outbox.close();
    return url;
  };
  return [await opened(`agents-${agents}`, 0), await opened(`parked-${agents}`, tasks)];
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const since = performance.now();
  await work();
  return performance.now() - since;
}

async function finds(outbox: Outbox): Promise<Record<string, number[]>> {
  const times: Record<string, number[]> = Object.fromEntries(
    Object.keys(FINDS).map((title) => [title, []]),
  );
  for (let call = 0; call < CALLS; call++) {
    for (const [title, needs] of Object.entries(FINDS)) {
      const ms = await timed(() => outbox.agents.findAvailableAgents(needs, { maxResults: 10 }));
      // The first three warm up.
      if (call > 2) times[title]?.push(ms);
    }
  }
  return times;
}

async function assigns(outbox: Outbox, count: number): Promise<number> {
  const boss = outbox.supervisor("boss");
  const batches = tasksOf(count);
  const ms = await timed(async () => {
    for (const batch of batches) await boss.assignTasks(batch);
  });
  await allAssigned(outbox);
  return (count / ms) * 1_000;
}

async function places(outboxes: readonly Outbox[], count: number): Promise<number> {
  const early = await outboxes[0]?.supervisor("check").listTasks({ state: "assigned", limit: 1 });
  if (early?.length !== 0) throw new Error("a task has an agent before it begins");
  const ms = await timed(() =>
    Promise.all(
      outboxes.map(async (outbox, n) => {
        const boss = outbox.supervisor(`boss-${n}`);
        do await boss.processIncomingMessages();
        while ((await boss.listTasks({ state: "submitted", limit: 1 })).length > 0);
      }),
    ),
  );
  await allAssigned(outboxes[0] as Outbox);
  return (count / ms) * 1_000;
}

async function allAssigned(outbox: Outbox): Promise<void> {
  const left = await outbox.supervisor("check").listTasks({ state: "submitted", limit: 1 });
  if (left.length > 0) throw new Error("a task got no agent");
}

/** Finding agents and giving them tasks, with few agents and with many. */
export const assignmentBench: Bench = async (asked) => {
  const { databases, rounds, quick, machine, say } = asked;
  const folder = mkdtempSync(join(tmpdir(), "agent-outbox-bench-"));
  const tasks = quick ? 1_000 : 10_000;
  const cells: Measured[] = [];
  const durability: Record<string, string> = {};
  try {
    for (const database of databases) {
      await using at = await place(database, join(folder, database), asked.postgres);
      durability[database] = await at.durability();
      const from = new Map<number, [string, string]>();
      for (const agents of SIZES) from.set(agents, await bases(at, agents, tasks));
      say(`${database}: agents are registered`);
      const one = async (
        agents: number,
        [base, clients]: [base: 0 | 1, clients: number],
        run: (outboxes: Outbox[]) => Promise<void>,
      ) => {
        const url = await at.copy(from.get(agents)?.[base] as string, "run");
        const outboxes: Outbox[] = [];
        try {
          // Open before anything is measured.
          for (let n = 0; n < clients; n++) outboxes.push(await openOutbox({ database: url }));
          await run(outboxes);
        } finally {
          for (const outbox of outboxes) await outbox.close();
          await at.drop(url);
        }
      };
      for (let round = 0; round <= rounds; round++) {
        // Interleaved: whatever else the machine does meets both sizes alike.
        for (const agents of SIZES) {
          const note = (title: string, unit: "ms" | "tasks/s", values: number[]) => {
            // The first round warms up the just-in-time compiler.
            if (round > 0) cells.push({ database, agents, title, unit, values });
            say(
              `${database}, round ${round}, ${agents} agents: ${title}: ${values.map(Math.round)}`,
            );
          };
          await one(agents, [0, 1], async ([outbox]) => {
            for (const [title, times] of Object.entries(await finds(outbox as Outbox))) {
              if (round > 0) cells.push({ database, agents, title, unit: "ms", values: times });
            }
            const rate = await assigns(outbox as Outbox, tasks);
            note(`assignTasks in batches of ${BATCH}`, "tasks/s", [rate]);
          });
          for (const clients of [1, SUPERVISORS]) {
            await one(agents, [1, clients], async (outboxes) => {
              const rate = await places(outboxes, tasks);
              const who = clients === 1 ? "one supervisor" : `${clients} supervisors at once`;
              note(`placing ${tasks} parked tasks, ${who}`, "tasks/s", [rate]);
            });
          }
        }
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return assignmentMarkdown({ machine, rounds, durability, cells });
};
