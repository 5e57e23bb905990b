import { beforeEach, expect, it } from "vitest";
import { cancelMessage, endTask } from "../../lib/coordination/parts.ts";
import type { HandoffState } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { type DyingProcess, killedAtEachStatement } from "../support/dying-process.ts";
import { checkConsistent, checkJournal, keepJournal } from "./journal.ts";
import { stage, wipe } from "./stage.ts";

eachDatabase("a process that dies at any statement of a handoff", (database) => {
  let on: ReturnType<typeof stage>;
  let journal = false;
  beforeEach(async () => {
    if (!journal) await keepJournal(database.knex());
    journal = true;
    await wipe(database);
    if (database.dialect !== "mssql") await database.knex()("task_journal").del();
    on = stage(database);
    await on.agent("a");
  });

  const options = {
    supervisorId: "boss",
    mostStatements: 80,
    check: () => checkConsistent(on.knex),
  };
  const killedEverywhere = (step: (process: DyingProcess) => Promise<unknown>) =>
    killedAtEachStatement(database, options, step);

  const both = async () => {
    const assigned = await on.assigned();
    await on.agent("b");
    return assigned;
  };
  const state = async (handoffId: string): Promise<HandoffState | undefined> =>
    (await on.handoffs.get(handoffId))?.state;

  it("loses nothing: offer, acceptance, end", async () => {
    const { task } = await both();
    const offer = { handoffId: "h", from: "a", to: "b", reason: "r", taskId: task.taskId };
    const statements = await killedEverywhere(({ coordination }) =>
      coordination.handoffs.initiate(offer),
    );
    expect(statements).toBeGreaterThan(5);
    expect(await state("h")).toBe("offered");
    await killedEverywhere(({ coordination }) => coordination.handoffs.accept("h", "b"));
    expect(await state("h")).toBe("accepted");
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "b", assignment: 2 });
    await killedEverywhere(({ coordination }) => coordination.handoffs.activate("h", "b"));
    // What a supervisor does with the answer; the handoff ends with the task.
    const fence = { taskId: task.taskId, assignment: 2, agentId: "b" };
    await killedEverywhere(async ({ coordination: { parts } }) => {
      await parts.tasks.transaction(async (trx) => {
        await cancelMessage(parts, trx, await on.task(task.taskId));
        await endTask(parts, trx, fence, "completed", { result: 1 });
      });
    });
    expect(await on.task(task.taskId)).toMatchObject({ state: "completed", result: 1 });
    expect(await state("h")).toBe("completed");
    if (database.dialect !== "mssql") expect(await checkJournal(on.knex)).toBe(1);
  });

  it("loses nothing: a run that ends with its offer, and gets the task back", async () => {
    const { task, message } = await both();
    const offer = { from: "a", to: "b", reason: "r", taskId: task.taskId };
    await killedEverywhere(async ({ coordination }) => {
      // The one before may have died after its commit.
      if ((await coordination.handoffs.list({ state: "offered" })).length > 0) return;
      await coordination.parts.tasks.transaction(async (tx) => {
        await coordination.handoffs.offer(tx, offer, { gates: [], detached: true });
        await coordination.parts.queue.cancelMessage(message.messageId, { tx });
      });
    });
    const [first] = await on.handoffs.list({ state: "offered" });
    await killedEverywhere(({ coordination }) =>
      coordination.handoffs.reject(first?.handoffId ?? "", "b", "no"),
    );
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", assignment: 2 });
    expect(await on.waiting("a")).toContain("TASK_ASSIGNMENT");

    const again = await on.next("a", ["TASK_ASSIGNMENT"]);
    await on.knex.transaction(async (tx) => {
      await on.handoffs.offer(tx, offer, { gates: [], detached: true });
      await again.ack({ tx });
    });
    await on.knex("outbox_handoffs").whereNull("ended_at").update({ due_at: 1 });
    await killedEverywhere(async ({ coordination }) => {
      for (const each of coordination.parts.sweepSteps) await each.sweep(null);
    });
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", assignment: 3 });
    expect(await on.handoffs.list({ state: "returned" })).toHaveLength(1);
    if (database.dialect !== "mssql") expect(await checkJournal(on.knex)).toBe(1);
  });

  it("loses nothing: a return, and a target that is lost", async () => {
    const { task } = await both();
    for (const way of ["returned", "lost"]) {
      const { handoffId } = await on.offer({ taskId: task.taskId });
      await on.handoffs.accept(handoffId, "b");
      if (way === "lost") await on.silence("b");
      await killedEverywhere(async ({ coordination }) => {
        if (way === "returned") await coordination.handoffs.returnToSender(handoffId, "cannot");
        else for (const each of coordination.parts.sweepSteps) await each.sweep(null);
      });
      expect(await state(handoffId)).toBe("returned");
      expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", state: "assigned" });
    }
    expect((await on.task(task.taskId)).assignment).toBe(5);
    if (database.dialect !== "mssql") expect(await checkJournal(on.knex)).toBe(1);
  });
});
