import { type Outbox, openOutbox } from "../../lib/index.ts";
import { fill, MAILBOX, note, settle } from "./filling.ts";
import {
  CLAIM,
  CLAIMERS,
  type Found,
  growthMarkdown,
  type Scene,
  SMALL_CLAIM,
  type Stage,
  text,
} from "./growth-report.ts";
import { onEach, timed } from "./measure.ts";
import type { Place } from "./place.ts";
import type { Asked, Bench } from "./run.ts";

/** What does not fit into this is filled no further. */
const FILLING_SECONDS = { postgres: 300, sqlite: 60 };

/** @param by what all is divided by */
function scenesOf(by: number): Scene[] {
  const few = Math.max(500, 1_000 / by);
  const [middle, many, inFlight, mailboxes] = [100_000, 1_000_000, 10_000, 10_000].map((count) =>
    Math.max(few, count / by),
  ) as [number, number, number, number];
  return [
    ...[few, middle, many].map((ready) => ({
      title: `${text(ready)} waiting`,
      ready,
      target: 1.2,
    })),
    {
      title: `${text(inFlight)} in flight in the mailbox`,
      ready: few,
      beside: ["leased", inFlight],
      target: 1.5,
    },
    {
      title: `${text(mailboxes)} other mailboxes`,
      ready: few,
      beside: ["ready", mailboxes * SMALL_CLAIM, mailboxes],
      target: 1.2,
    },
    {
      title: `${text(many)} scheduled in the mailbox`,
      ready: few,
      beside: ["scheduled", many],
      target: 1.2,
    },
    { title: `${text(many)} archived`, ready: few, beside: ["archived", many], target: 1.2 },
  ];
}

async function stageOf(at: Place, scene: Scene, n: number, seconds: number): Promise<Stage> {
  const url = await at.empty(`growth-${n}`);
  const outbox = await openOutbox({ database: url, migrate: true });
  let rows = 0;
  if (scene.beside !== undefined) {
    const [what, count, mailboxes] = scene.beside;
    rows = await fill(outbox, what, count, { seconds, mailboxes: mailboxes ?? 1 });
  }
  rows += await fill(outbox, "ready", scene.ready, { seconds });
  await settle(outbox);
  return { scene, url, outbox, rows, claims: [], drains: [] };
}

async function claimAndAck(outbox: Outbox, limit: number, mailbox = MAILBOX): Promise<number> {
  const ms = await timed(async () => {
    const claimed = await outbox.queue.getMessages(mailbox, { limit });
    if (claimed.length !== limit) throw new Error(`${claimed.length} of ${limit} claimed`);
    await outbox.queue.ackMessages(claimed);
  });
  // So that there is as much before the next.
  await outbox.queue.sendMessages(Array.from({ length: limit }, (_, n) => note(n, mailbox)));
  return ms;
}

/** Messages a second until about so many are handled. */
async function drain(outbox: Outbox, count: number): Promise<number> {
  await fill(outbox, "ready", count);
  await settle(outbox);
  let left = count;
  let since = 0;
  let reach = () => {};
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  const handle = () => {
    since ||= performance.now();
    left -= 1;
    if (left === 0) reach();
  };
  const worker = outbox.queue.work(MAILBOX, handle, { concurrency: 100, batchSize: 500 });
  await reached;
  // What was handled beyond is settled with the rest, and counts.
  await worker.stop();
  return ((count - left) / (performance.now() - since)) * 1_000;
}

/** Messages a second that so many claimers take and finish together. */
async function together(outbox: Outbox, claimers: number, count: number): Promise<number> {
  await fill(outbox, "ready", count);
  await settle(outbox);
  let left = count;
  const claimer = async () => {
    while (left > 0) {
      const claimed = await outbox.queue.getMessages(MAILBOX, { limit: CLAIM });
      await outbox.queue.ackMessages(claimed);
      left -= claimed.length;
    }
  };
  const ms = await timed(() => Promise.all(Array.from({ length: claimers }, claimer)));
  return ((count - left) / ms) * 1_000;
}

/** In another order each time: what one leaves to the machine meets not always the same next. */
const shuffled = <T>(all: readonly T[]): T[] =>
  all
    .map((one) => ({ one, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ one }) => one);

async function measure(
  at: Place,
  database: "postgres" | "sqlite",
  { quick, say }: Asked,
): Promise<Found> {
  const by = quick ? 100 : 1;
  const slice = quick ? 2_000 : 20_000;
  const stages: Stage[] = [];
  const found = {
    stages,
    small: { one: [] as number[], many: [] as number[] },
    together: new Map(CLAIMERS.map((claimers) => [claimers, [] as number[]])),
  };
  try {
    for (const [n, scene] of scenesOf(by).entries()) {
      const stage = await stageOf(at, scene, n, FILLING_SECONDS[database]);
      stages.push(stage);
      say(`${database}: filled: ${scene.title} (${stage.rows} rows)`);
    }
    const warm = 5;
    for (let turn = -warm; turn < (quick ? 10 : 60); turn++) {
      for (const { outbox, claims } of shuffled(stages)) {
        const ms = await claimAndAck(outbox, CLAIM);
        if (turn >= 0) claims.push(ms);
      }
    }
    const [small, middle] = stages as [Stage, Stage];
    const many = stages.find(({ scene }) => scene.beside?.[2] !== undefined) as Stage;
    const mailboxes = many.scene.beside?.[2] as number;
    for (let turn = -warm; turn < (quick ? 20 : 200); turn++) {
      const mailbox = `box-${Math.floor(Math.random() * mailboxes)}`;
      const times = [
        await claimAndAck(small.outbox, SMALL_CLAIM),
        await claimAndAck(many.outbox, SMALL_CLAIM, mailbox),
      ] as const;
      if (turn < 0) continue;
      found.small.one.push(times[0]);
      found.small.many.push(times[1]);
    }
    for (let turn = 0; turn <= (quick ? 1 : 9); turn++) {
      for (const { scene, outbox, drains } of shuffled(stages)) {
        const rate = await drain(outbox, slice);
        if (turn > 0) drains.push(rate);
        say(`${database}: drain: ${scene.title}: ${Math.round(rate)} /s`);
      }
    }
    for (const { outbox } of stages) await outbox.close();
    // A connection for each, where the database has more than one.
    const crowd = await openOutbox({ database: middle.url, poolMax: Math.max(...CLAIMERS) + 2 });
    try {
      for (let turn = 0; turn <= (quick ? 1 : 9); turn++) {
        for (const claimers of shuffled(CLAIMERS)) {
          const rate = await together(crowd, claimers, 3 * slice);
          if (turn > 0) found.together.get(claimers)?.push(rate);
          say(`${database}: ${claimers} claimers: ${Math.round(rate)} /s`);
        }
      }
    } finally {
      await crowd.close();
    }
  } finally {
    for (const { outbox, url } of stages) {
      await outbox.close();
      await at.drop(url);
    }
  }
  return found;
}

/** What claims and drains cost with much in the tables, by what they cost with little. */
export const growthBench: Bench = async (asked) => {
  const found = new Map<string, Found>();
  const durability = await onEach(asked, async (at, database) => {
    found.set(database, await measure(at, database, asked));
  });
  return growthMarkdown(found, asked, durability);
};
