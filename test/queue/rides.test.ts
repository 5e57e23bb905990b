import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { expect, it, onTestFinished } from "vitest";
import { MessageQueueManager } from "../../lib/index.ts";
import { pushOf } from "../../lib/queue/wake/notify.ts";
import { Rides } from "../../lib/queue/wake/rides.ts";
import type { WakeChannel } from "../../lib/store/wake-channel.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

/** What every statement of a knex says of wake-ups: stored, told, or both at once. */
function watchedStatements(knex: import("knex").Knex): string[] {
  const seen: string[] = [];
  knex.on("query", ({ sql }: { sql: string }) => {
    const stores = /INSERT INTO outbox_messages/.test(sql);
    const tells = sql.includes("pg_notify");
    if (stores || tells) seen.push(stores && tells ? "both" : stores ? "stored" : "told");
  });
  return seen;
}

/** The mailboxes of every NOTIFY in the database of a knex, while the test runs. */
async function overheard(knex: import("knex").Knex): Promise<string[]> {
  const { connectionString } = knex.client.connectionSettings;
  const client = new pg.Client({ connectionString });
  await client.connect();
  onTestFinished(() => client.end());
  const heard: string[] = [];
  client.on("notification", ({ payload = "" }) => heard.push(payload.split(" ")[0] as string));
  await client.query("LISTEN outbox_wake");
  return heard;
}

eachDatabase("the wake-up of a lone send", (database) => {
  if (database.dialect !== "postgres") {
    it("is told as ever where no statement can take it along", async () => {
      const { queue } = watched(database.knex());
      const to = mailbox();
      const worker = queue.work(to, () => undefined);
      for (let n = 1; n <= 3; n++) {
        await sleep(10);
        await queue.sendMessage(note(to));
      }
      await until(() => worker.stats.processed === 3);
    });
    return;
  }

  it("goes with the statement that stores it, once the server has shown that it can tell", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const seen = watchedStatements(knex);
    const heard = await overheard(knex);
    for (let n = 1; n <= 6; n++) {
      await sleep(12);
      const to = mailbox();
      await queue.sendMessage({
        ...note(to),
        ...(n === 4 ? { correlationId: "c", subject: "s" } : {}),
      });
      await until(() => heard.includes(to));
    }
    expect(seen).toEqual(["stored", "told", "both", "both", "both", "both", "both"]);
    expect(new Set(heard).size).toBe(heard.length);
    const rows = await knex("outbox_messages")
      .select("redriven", "lane", "correlation_id", "subject")
      .orderBy("seq");
    expect(rows.map(({ redriven, lane }) => [redriven, lane])).toEqual(Array(6).fill([0, ""]));
    expect(rows[3]).toMatchObject({ correlation_id: "c", subject: "s" });
  });

  it("stays behind the commit of a caller's transaction, of many sends, and of what is not due", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessage(note(mailbox()));
    await sleep(30);
    const seen = watchedStatements(knex);
    await knex.transaction((tx) => queue.sendMessage(note(mailbox()), { tx }));
    await sleep(12);
    await queue.sendMessages([note(mailbox()), note(mailbox())]);
    await sleep(12);
    await queue.sendMessage({ ...note(mailbox()), messageId: "own" });
    await sleep(12);
    await queue.sendMessage({ ...note(mailbox()), delayMs: 60_000 });
    const quick = mailbox();
    for (let n = 0; n < 20; n++) await queue.sendMessage(note(quick));
    expect(seen.filter((one) => one === "both").length).toBeLessThanOrEqual(1);
    expect(seen.indexOf("both")).not.toBe(0);
  });

  it("never keeps a message from being stored: a server that refuses it gets the message without", async () => {
    const { knex } = await database.fresh();
    const role = `mute_${process.pid}_${Date.now()}`;
    await knex.raw(`CREATE ROLE ${role} LOGIN PASSWORD 'p'`);
    await knex.raw(`GRANT ALL ON ALL TABLES IN SCHEMA public TO ${role}`);
    await knex.raw(`GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO ${role}`);
    const url = new URL(knex.client.connectionSettings.connectionString);
    Object.assign(url, { username: role, password: "p" });
    const queue = new MessageQueueManager(url.href);
    onTestFinished(() => queue.close());
    const to = mailbox();
    const seen = watchedStatements(queue.knex);
    await queue.sendMessage(note(to, { n: 0 }));
    // Until one was told of with its message, which shows that the server allowed it before.
    await until(async () => {
      await sleep(12);
      await queue.sendMessage(note(mailbox()));
      return seen.includes("both");
    });
    await knex.raw("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC");
    seen.length = 0;
    for (let n = 1; n <= 3; n++) {
      await sleep(12);
      await queue.sendMessage(note(to, { n }));
    }
    expect(seen.filter((one) => one === "both")).toHaveLength(1);
    const claimed = await queue.getMessages(to);
    expect(claimed.map(({ content }) => (content as { n: number }).n)).toEqual([0, 1, 2, 3]);
  });

  it("says nothing with notify: false", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex, { notify: false });
    const seen = watchedStatements(knex);
    for (let n = 0; n < 3; n++) {
      await sleep(10);
      await queue.sendMessage(note(mailbox()));
    }
    expect(seen).toEqual(["stored", "stored", "stored"]);
  });
});

it("lone sends stop taking wake-ups along where that takes longer than a send without, ever longer", () => {
  const rides = new Rides();
  let now = 0;
  const next = () => {
    now += 20;
    return rides.sending(now);
  };
  expect(next()).toEqual({ alone: true, mayRide: false });
  rides.walked(1);
  rides.told(true);
  expect(rides.sending(now + 1)).toEqual({ alone: false, mayRide: false });
  now += 1;
  const pauses: number[] = [];
  for (let round = 0; round < 9; round++) {
    let last = now;
    for (let n = 0; n < 20; n++) {
      if (next().mayRide) {
        last = now;
        rides.rode(8, now);
      } else {
        rides.walked(1);
      }
    }
    while (!next().mayRide) if (now - last > 100_000) throw new Error("never again");
    pauses.push(now - last);
  }
  expect(pauses[0]).toBeGreaterThan(900);
  expect(pauses[3]).toBeGreaterThan(4_000);
  expect(Math.max(...pauses)).toBeLessThan(77_000);
  // What is as quick as a send without goes on, but for one in 64 that shows how long that takes.
  for (let n = 0; n < 60; n++) rides.rode(1, now);
  const went = Array.from({ length: 640 }, () => {
    const { mayRide } = next();
    if (mayRide) rides.rode(1.2, now);
    else rides.walked(1);
    return mayRide;
  });
  expect(went.filter(Boolean)).toHaveLength(630);
});

it(
  "a wake-up is not kept by one of another mailbox that has to wait for longer",
  TIMED,
  async () => {
    const told: [string, number][] = [];
    const channel: WakeChannel = {
      send: async (payloads) => {
        for (const payload of payloads)
          told.push([payload.split(" ")[0] as string, performance.now()]);
      },
      listen: async () => ({ close: () => undefined }),
    };
    const push = pushOf(`rides-${Math.random()}`);
    // Busy: its next wake-up comes in 50 ms.
    push.send(["busy"], channel);
    push.send(["busy"], channel);
    await until(() => told.length === 2);
    push.send(["busy"], channel);
    const since = performance.now();
    push.send(["other"], channel);
    push.send(["other"], channel);
    await until(() => told.filter(([to]) => to === "other").length === 2);
    expect((told.at(-1)?.[1] ?? 0) - since).toBeLessThan(35);
  },
);
