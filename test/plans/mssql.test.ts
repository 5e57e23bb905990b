import type { Knex } from "knex";
import { expect, it } from "vitest";
import type { MessageQueueManager } from "../../lib/index.ts";
import { mssql } from "../../lib/store/mssql.ts";
import { eachDatabase, type TestDatabase } from "../support/databases.ts";
import { note, watched } from "../support/queue.ts";
import { calls, RETENTIONS } from "./calls.ts";
import { Filling, GROWING } from "./fill.ts";

const LARGE = 100_000;

/** A batch that the server keeps a plan of. */
interface Kept {
  readonly handle: string;
  readonly text: string;
  /** Showplan XML of the whole batch. */
  readonly plan: string;
}

/** Of the statements that name a table of ours in this database. */
async function keptPlans(knex: Knex): Promise<Kept[]> {
  return knex.raw(`
    SELECT CONVERT(varchar(200), cp.plan_handle, 1) AS handle, st.text AS text, qp.query_plan AS [plan]
    FROM sys.dm_exec_cached_plans cp
    CROSS APPLY sys.dm_exec_plan_attributes(cp.plan_handle) pa
    CROSS APPLY sys.dm_exec_sql_text(cp.plan_handle) st
    CROSS APPLY sys.dm_exec_text_query_plan(cp.plan_handle, 0, -1) qp
    WHERE pa.attribute = N'dbid' AND CONVERT(int, pa.value) = DB_ID()
      AND st.text LIKE N'%outbox[_]%' AND st.text NOT LIKE N'%dm_exec_cached_plans%'`);
}

/** Why the plans of this server cannot be looked at; undefined where they can. */
async function hidden(knex: Knex): Promise<string | undefined> {
  try {
    await knex("outbox_messages").where({ message_id: "none" }).first();
    const kept = await keptPlans(knex);
    const own = kept.some(({ text, plan }) => text.includes("[message_id]") && plan !== null);
    return own ? undefined : "the server shows no plans of what it just ran";
  } catch (error) {
    return `the server does not show its plans (VIEW SERVER STATE is needed): ${(error as Error).message.slice(-200)}`;
  }
}

const TYPE = String.raw`\w+(?:\([\d,]+\)|\(max\))?`;
const OUR_COLUMN = String.raw`\[[^\]]*\]\.\[[^\]]*\]\.\[outbox_\w+\]`;
const CONVERTED = new RegExp(String.raw`CONVERT_IMPLICIT\(${TYPE},${OUR_COLUMN}[^)]*`, "g");
/** Where a conversion keeps an index from being searched, or estimates from being right. */
const CONDITIONS =
  /<(SeekPredicates|SeekPredicateNew|Predicate|ProbeResidual|BuildResidual|Residual|PassThru)\b[^>]*>.*?<\/\1>/gs;
const WARNING = /<PlanAffectingConvert\b[^>]*>/g;

/** Columns of ours that a plan converts to compare them. */
function conversions(plan: string): string[] {
  const told = [...plan.matchAll(WARNING)]
    .map(([warning]) => warning)
    .filter((warning) => /"Seek Plan"/.test(warning) || /\[outbox_/.test(warning));
  const compared = [...plan.matchAll(CONDITIONS)].flatMap(([part]) => part.match(CONVERTED) ?? []);
  return [...new Set([...told, ...compared])];
}

const STEP = /<RelOp\b[^>]*PhysicalOp="([^"]*Scan)"[^>]*>(.*?)(?=<RelOp\b|<\/RelOp>)/gs;

/** Growing tables that a plan reads from end to end. */
function scans(plan: string): string[] {
  return [...plan.matchAll(STEP)].flatMap(([, kind, inside = ""]) => {
    const table = /<Object\b[^>]*Table="\[(\w+)\]"/.exec(inside)?.[1] ?? "";
    return GROWING.includes(table) ? [`${kind} of ${table}`] : [];
  });
}

/** All that is said with strings of this length: names, keys and contents. */
async function useQueue(queue: MessageQueueManager, length: number, content: number) {
  const name = (letter: string) => letter.repeat(length);
  const to = name("a");
  const messageType = name("t");
  const message = { ...note(to, { text: "x".repeat(content) }), messageType };
  await queue.sendMessage(message);
  await queue.sendMessages([message, message, message]);
  await queue.sendMessage({ ...message, dedupeKey: name("d") });
  await queue.sendMessage({ ...message, orderingKey: name("o"), subject: name("s") });
  await queue.sendMessage({ ...message, concurrencyKey: name("c"), correlationId: name("r") });
  const options = { limit: 10, workerId: name("w") };
  const claimed = await queue.getMessages(to, options);
  // The key may be known from a round before.
  expect(claimed.length).toBeGreaterThanOrEqual(6);
  await claimed[0]?.extend(60_000);
  await claimed[1]?.nack(new Error(name("e")), { delayMs: 60_000 });
  await claimed[2]?.deadLetter("rejected", { error: new Error("e".repeat(content)) });
  await claimed[3]?.defer(0);
  await queue.ackMessages(claimed.filter((_, n) => n !== 1 && n !== 2 && n !== 3));
  const [last] = await queue.getMessages(to, { ...options, messageTypes: [messageType] });
  await queue.markProcessed(String(last?.messageId), to);
  await queue.getMessage(name("n"));
  await queue.cancelMessage(name("n"));
}

async function stage(database: TestDatabase) {
  const { knex } = await database.fresh();
  const { queue } = watched(knex, RETENTIONS);
  return { knex, queue, reason: await hidden(knex) };
}

eachDatabase("plans that the server keeps", (database) => {
  const onServer = it.skipIf(database.dialect !== "mssql");

  onServer(
    "compare no column of ours in another type, and read no table from end to end",
    async ({ skip }) => {
      const { knex, queue, reason } = await stage(database);
      if (reason !== undefined) skip(reason);
      await queue.limits.set("limit", { agentId: "gated", maxInFlight: 1_000 });
      await new Filling(knex, "mssql", mssql("outbox_").now).step(LARGE);
      for (const table of GROWING) await knex.raw(`UPDATE STATISTICS ${table} WITH FULLSCAN`);
      const found: string[] = [];
      const before = new Set((await keptPlans(knex)).map(({ handle }) => handle));
      for (const call of calls(knex, queue, "once")) {
        await call.run();
        for (const { handle, text, plan } of await keptPlans(knex)) {
          if (before.has(handle) || plan === null) continue;
          before.add(handle);
          const counts = call.cold || call.pages !== undefined;
          const wrong = [...conversions(plan), ...(counts ? [] : scans(plan))];
          if (wrong.length > 0) found.push(`${call.name}: ${wrong.join("; ")}\n${text}`);
        }
      }
      expect(before.size).toBeGreaterThan(20);
      expect(found.join("\n\n")).toBe("");
    },
    600_000,
  );

  onServer("are as many for strings of every length", async ({ skip }) => {
    const { knex, queue, reason } = await stage(database);
    if (reason !== undefined) skip(reason);
    // Two rounds know all statements: those of short values, and of values beyond 4,000 characters.
    for (const content of [1, 5_000]) {
      await useQueue(queue, 3, content);
      await useQueue(queue, 4, content);
    }
    const known = new Map((await keptPlans(knex)).map(({ handle, text }) => [handle, text]));
    expect(known.size).toBeGreaterThan(10);
    for (const length of [1, 2, 17, 64, 128]) {
      for (const content of [2, 900, 4_500, 20_000]) await useQueue(queue, length, content);
    }
    const after = await keptPlans(knex);
    expect(after.filter(({ handle }) => !known.has(handle)).map(({ text }) => text)).toEqual([]);
  });
});

// What is looked for is looked for on a server that cannot be had everywhere: the search itself is tested here.
it("finds a converted column, and a table that is read from end to end, in a plan", () => {
  const column = "[d].[dbo].[outbox_messages].[to_agent]";
  const object = '<Object Database="[d]" Schema="[dbo]" Table="[outbox_messages]" Index="[i]"/>';
  const step = (kind: string, condition: string) =>
    `<RelOp NodeId="0" PhysicalOp="${kind}"><IndexScan>${object}<Predicate><ScalarOperator ScalarString="${condition}"/></Predicate></IndexScan></RelOp>`;
  const bad = step("Clustered Index Scan", `CONVERT_IMPLICIT(nvarchar(128),${column},0)=[@p0]`);
  expect(conversions(bad)).toEqual([`CONVERT_IMPLICIT(nvarchar(128),${column},0`]);
  expect(scans(bad)).toEqual(["Clustered Index Scan of outbox_messages"]);
  const good = step("Index Seek", `${column}=CONVERT_IMPLICIT(nvarchar(4000),[@p0],0)`);
  expect([...conversions(good), ...scans(good)]).toEqual([]);
  const warning =
    '<PlanAffectingConvert ConvertIssue="Seek Plan" Expression="CONVERT_IMPLICIT(x)"/>';
  expect(conversions(`<Warnings>${warning}</Warnings>`)).toEqual([warning]);
});
