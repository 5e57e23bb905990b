import { expect, it } from "vitest";
import { DeadLetterStore } from "../../lib/store/dead-letters.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";
import { type Script, spawnScript } from "../support/processes.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";
import { bulkDead, deadIds, liveIds } from "./dead-letters-support.ts";

interface Report {
  done?: number;
  redriven?: number;
  messageIds?: string[];
}

/** Its last report, which says what it sent. */
async function finalReport(script: Script): Promise<Required<Report>> {
  for (;;) {
    const report = await script.message<Report>();
    if (report.redriven !== undefined) return report as Required<Report>;
  }
}

eachDatabase("redrive", (database) => {
  it("sends 5,000 dead letters again in bounded steps, each once and in order", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const ids = await bulkDead(queue, database, to, 5_000);
    const steps: number[] = [];
    const result = await queue.deadLetters.redrive(
      { agentId: to },
      { limit: 10_000, onProgress: ({ done }) => steps.push(done) },
    );
    expect(result).toMatchObject({ redriven: 5_000, matched: 5_000, stopped: false });
    const sizes = steps.map((done, n) => done - (steps[n - 1] ?? 0));
    expect(Math.max(...sizes)).toBeLessThanOrEqual(500);
    expect(steps.at(-1)).toBe(5_000);
    expect(result.messageIds).toEqual(ids);
    expect(await liveIds(database.knex(), to)).toEqual(ids);
    expect(await deadIds(database.knex(), to)).toEqual([]);
  });

  it("two operators in two processes at once send nothing twice and leave nothing", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const ids = await bulkDead(queue, database, to, 600);
    const operators = [1, 2].map(() =>
      spawnScript("test/queue/programs/redrives.ts", [database.url(), to]),
    );
    for (const operator of operators) await operator.message();
    for (const operator of operators) operator.send({ go: true });
    const reports = await Promise.all(operators.map(finalReport));
    expect(reports.reduce((sum, { redriven }) => sum + redriven, 0)).toBe(600);
    const sent = reports.flatMap(({ messageIds }) => messageIds);
    expect(new Set(sent).size).toBe(600);
    expect((await liveIds(database.knex(), to)).sort()).toEqual([...ids].sort());
    expect(await deadIds(database.knex(), to)).toEqual([]);
  });

  it("an operator killed in the middle loses nothing and doubles nothing", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const ids = await bulkDead(queue, database, to, 1_500);
    const operator = spawnScript("test/queue/programs/redrives.ts", [database.url(), to]);
    await operator.message();
    operator.send({ go: true });
    await operator.message<Report>();
    operator.kill("SIGKILL");
    await operator.exited;
    const [live, dead] = [await liveIds(database.knex(), to), await deadIds(database.knex(), to)];
    expect(live.length).toBeGreaterThan(0);
    expect([...live, ...dead].sort()).toEqual([...ids].sort());
    const rest = await queue.deadLetters.redrive({ agentId: to }, { limit: 10_000 });
    expect(rest.messageIds).toEqual(dead);
    expect((await liveIds(database.knex(), to)).sort()).toEqual([...ids].sort());
  });

  it("with a rate, schedules the messages evenly, so that nobody has to stay", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await bulkDead(queue, database, to, 150);
    const result = await queue.deadLetters.redrive({ agentId: to }, { perSecond: 4 });
    expect(result).toMatchObject({ redriven: 150, lastDelayMs: 149 * 250 });
    const rows: { state: number; visible_at: number | string; due_at: number | string | null }[] =
      await database.knex()("outbox_messages").where({ to_agent: to }).orderBy("seq");
    expect(rows.map(({ state }) => Number(state))).toEqual([0, ...Array(149).fill(1)]);
    const start = Number(rows[0]?.visible_at);
    // The steps begin one after the other; the time that one takes is added to those after it.
    for (const [n, { visible_at, due_at }] of rows.entries()) {
      const lag = Number(visible_at) - start - n * 250;
      expect(lag, `message ${n}`).toBeGreaterThanOrEqual(0);
      expect(lag, `message ${n}`).toBeLessThan(5_000);
      expect(due_at === null ? null : Number(due_at)).toBe(n === 0 ? null : Number(visible_at));
    }
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 1, scheduled: 149, dead: 0 });
    expect(await queue.getMessages(to, { limit: 1 })).toHaveLength(1);
  });

  it("a dry run counts, shows what would go, and changes nothing", async () => {
    const { queue, events } = watched(database.knex());
    const to = mailbox();
    const ids = await bulkDead(queue, database, to, 30);
    events.splice(0);
    const dry = await queue.deadLetters.redrive({ agentId: to }, { dryRun: true });
    expect(dry).toMatchObject({ dryRun: true, matched: 30, redriven: 0, messageIds: [] });
    expect(dry.sample.map(({ messageId }) => messageId)).toEqual(ids.slice(0, 10));
    const few = await queue.deadLetters.redrive({ agentId: to, dryRun: true, limit: 3 });
    expect([few.matched, few.sample.length]).toEqual([3, 3]);
    expect(await deadIds(database.knex(), to)).toEqual(ids);
    expect(await liveIds(database.knex(), to)).toEqual([]);
    expect(events).toEqual([]);
  });

  it("ends at the limit, the oldest first, and at the signal after the step that runs", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const ids = await bulkDead(queue, database, to, 350);
    const few = await queue.deadLetters.redrive({ agentId: to }, { limit: 20 });
    expect(few.messageIds).toEqual(ids.slice(0, 20));
    const stop = new AbortController();
    const stopped = await queue.deadLetters.redrive(
      { agentId: to },
      { signal: stop.signal, onProgress: () => stop.abort() },
    );
    expect(stopped.stopped).toBe(true);
    expect(stopped.redriven).toBeGreaterThan(0);
    expect(await deadIds(database.knex(), to)).toEqual(ids.slice(20 + stopped.redriven));
    const never = await queue.deadLetters.redrive({ agentId: to }, { signal: stop.signal });
    expect(never).toMatchObject({ stopped: true, redriven: 0 });
  });

  it("does not send again what failed anew while it ran", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await bulkDead(queue, database, to, 150);
    const dialect = dialectFor(database.dialect, "outbox_");
    const store = new DeadLetterStore(database.knex(), dialect, "outbox_");
    let sent = 0;
    for await (const { rows } of store.redrive({ agentId: to }, { limit: 10_000, delayMs: 0 })) {
      sent += rows.length;
      for (const claim of await queue.getMessages(to, { limit: 500 })) {
        await claim.deadLetter("rejected");
      }
    }
    expect(sent).toBe(150);
    const letters = await queue.deadLetters.list({ agentId: to, limit: 500 });
    expect(letters.map(({ redriven }) => redriven)).toEqual(Array(150).fill(1));
  });

  it("into another mailbox keeps the first one's name", async () => {
    const { queue } = watched(database.knex());
    const [first, second, third] = [mailbox(), mailbox(), mailbox()];
    await queue.sendMessage({ ...note(first), headers: { h: 1 } });
    const bury = async (to: string) => {
      const [claim] = await queue.getMessages(to);
      await claim?.deadLetter("rejected");
      return queue.deadLetters.get(String(claim?.messageId));
    };
    expect(await bury(first)).toMatchObject({ toAgent: first, originalAgent: first });
    await queue.deadLetters.redrive({ agentId: first }, { toAgent: second });
    expect(await bury(second)).toMatchObject({ toAgent: second, originalAgent: first });
    await queue.deadLetters.redrive({ agentId: second }, { toAgent: third });
    expect(await bury(third)).toMatchObject({
      toAgent: third,
      originalAgent: first,
      redriven: 2,
      headers: { h: 1, "x-original-agent": first },
    });
  });

  it("refuses what is no filter and no option", async () => {
    const { queue } = watched(database.knex());
    const wrong: [object, object][] = [
      [{ agentId: "a" }, { perSecond: 0 }],
      [{ agentId: "a" }, { perSecond: Number.NaN }],
      [{ agentId: "a" }, { signal: "stop" }],
      [{ agentId: "a" }, { onProgress: 1 }],
      [{ agent: "a" }, {}],
      [{ errorText: "  " }, {}],
      [{ failedAfter: "yesterday" }, {}],
    ];
    for (const [filter, options] of wrong) {
      const error = await failure(() => queue.deadLetters.redrive(filter, options));
      expect(error.code, JSON.stringify([filter, options])).toBe("VALIDATION_FAILED");
    }
    expect((await failure(() => queue.deadLetters.redrive(null as never))).code).toBe(
      "VALIDATION_FAILED",
    );
  });
});
