import { expect, onTestFinished, test } from "vitest";
import { planFor } from "../../demo/plan.ts";
import { Supervision } from "../../demo/supervisor.ts";
import { openOutbox } from "../../lib/index.ts";
import { until } from "../support/processes.ts";

const LONGEST_MS = 120_000;

async function supervision() {
  const outbox = await openOutbox({
    database: "sqlite::memory:",
    migrate: true,
    fileLogging: false,
  });
  const supervising = new Supervision(outbox, LONGEST_MS, () => undefined);
  onTestFinished(async () => {
    await supervising.stop();
    await outbox.close();
  });
  await supervising.start();
  return { outbox, supervising };
}

const plan = planFor(["a.ts", "b.ts"].map((path) => ({ path, kind: "code" as const, bytes: 1 })));

test("a stop ends the wait for tasks that nobody will end any more", async () => {
  const { outbox, supervising } = await supervision();
  const performing = expect(supervising.perform(plan)).rejects.toMatchObject({
    name: "AbortError",
  });
  await until(async () => (await outbox.tasks.list()).length === plan.tasks.length);
  await supervising.stop();
  await performing;
});

test("a stop between two assignments ends what is being planned", async () => {
  const { outbox, supervising } = await supervision();
  const performing = expect(supervising.perform(plan)).rejects.toMatchObject({
    name: "AbortError",
  });
  await supervising.stop();
  await performing;
  expect((await outbox.tasks.list()).length).toBeLessThan(plan.tasks.length);
});
