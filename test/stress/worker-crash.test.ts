import { expect, it } from "vitest";
import { gate } from "../queue/worker-support.ts";
import { eachDatabase } from "../support/databases.ts";
import { type Script, spawnScript, until } from "../support/processes.ts";
import { mailbox, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { effectsTable } from "./effects.ts";

interface Told {
  event: string;
  id: string;
  attempt: number;
  progress: unknown;
}

const message = (toAgent: string, act: string) => ({
  toAgent,
  fromAgent: `${toAgent}-asker`,
  messageType: "NOTE",
  content: { act },
});

eachDatabase("a worker process that", (database) => {
  // SQL Server, wherever it runs, is farther away than the others.
  const LEASE_MS = database.dialect === "mssql" ? 3_000 : 1_000;
  const OPTIONS = { leaseMs: LEASE_MS, pollMs: { min: 5, max: 200 } };
  const start = async (to: string, options: object = OPTIONS): Promise<Script> => {
    const script = spawnScript("test/stress/programs/worker.ts", [
      database.url(),
      to,
      JSON.stringify(options),
    ]);
    await heard(script, "ready");
    script.send({ begin: true });
    return script;
  };
  const heard = async (script: Script, event: string): Promise<Told> => {
    for (;;) {
      const told = await script.message<Told>();
      if (told.event === event) return told;
    }
  };

  it(
    "G6: is killed in a handler loses its message to another within the lease and a second",
    TIMED,
    async () => {
      const { queue } = watched(database.knex());
      const to = mailbox();
      const { messageId } = await queue.sendMessage(message(to, "note"));
      const first = await start(to);
      await heard(first, "noted");
      first.kill("SIGKILL");
      const killedAt = performance.now();
      let pickedUpAt = 0;
      let progress: unknown;
      const worker = queue.work(
        to,
        (again) => {
          pickedUpAt = performance.now();
          progress = again.progress;
        },
        OPTIONS,
      );
      await until(() => worker.stats.processed === 1);
      expect(pickedUpAt - killedAt).toBeLessThan(LEASE_MS + 1_000);
      // What the dead run had noted is there.
      expect(progress).toEqual({ attempt: 1 });
      expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed", attempt: 2 });
    },
  );

  it("G7: is killed before or after its commit has its effect and its reply exactly once", async () => {
    const { queue } = watched(database.knex());
    await effectsTable(database.knex());
    for (const [act, moment] of [
      ["die inside", "inside"],
      ["die after", "committed"],
    ] as const) {
      const to = mailbox();
      const { messageId } = await queue.sendMessage(message(to, act));
      const first = await start(to);
      await heard(first, moment);
      first.kill("SIGKILL");
      await first.exited;
      if (act === "die inside") await heard(await start(to), "ended");
      const effects = await database.knex()("effects").where({ message_id: messageId });
      expect(effects, act).toHaveLength(1);
      expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed" });
      expect(await queue.getMessages(`${to}-asker`)).toHaveLength(1);
    }
  });

  it("G8: is killed by a message every time gets rid of it after its last attempt", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(message(to, "die"));
    const good = await queue.sendMessage(message(to, "fine"));
    const attempts: number[] = [];
    for (let deaths = 0; deaths < 3; deaths++) {
      const script = await start(to, { ...OPTIONS, leaseMs: LEASE_MS / 2 });
      for (;;) {
        const told = await heard(script, "started");
        if (told.id === messageId) {
          attempts.push(told.attempt);
          break;
        }
      }
      expect(await script.exited).toMatchObject({ signal: "SIGKILL" });
    }
    await start(to, { ...OPTIONS, leaseMs: LEASE_MS / 2 });
    const dead = await until(() => queue.deadLetters.get(messageId));
    expect(dead).toMatchObject({ reason: "max_attempts", attempt: 3 });
    expect(attempts).toEqual([1, 2, 3]);
    await until(async () => (await queue.getMessage(good.messageId))?.state === "processed");
  });

  it(
    "G3: is frozen past its lease and wakes changes nothing: the other worker's result stands",
    TIMED,
    async () => {
      const { queue } = watched(database.knex());
      await effectsTable(database.knex());
      const to = mailbox();
      const sent = await queue.sendMessages([message(to, "wait"), message(to, "wait and write")]);
      const ids = sent.map(({ messageId }) => messageId);
      const frozen = await start(to, { ...OPTIONS, concurrency: 2 });
      await heard(frozen, "started");
      await heard(frozen, "started");
      frozen.kill("SIGSTOP");
      const frozenAt = performance.now();
      const open = gate();
      let lastBegunAt = 0;
      const worker = queue.work(
        to,
        async (again, { tx }) => {
          lastBegunAt = performance.now();
          await open.passed;
          await tx((trx) => trx("effects").insert({ message_id: again.messageId, process: 0 }));
        },
        { ...OPTIONS, concurrency: 2, workerId: "awake" },
      );
      await until(() => worker.stats.active === 2);
      expect(lastBegunAt - frozenAt).toBeLessThan(LEASE_MS + 1_000);
      // The sleeper ends its handlers while the other one still holds both messages.
      frozen.kill("SIGCONT");
      frozen.send({ go: true });
      const stats = await until(async () => {
        frozen.send({ ask: "stats" });
        const told = (await heard(frozen, "stats")) as unknown as {
          active: number;
          processed: number;
          failed: number;
        };
        return told.active === 0 && told;
      });
      expect(stats).toMatchObject({ processed: 0, failed: 0 });
      open.pass();
      await until(() => worker.stats.processed === 2);
      for (const messageId of ids) {
        expect(await queue.getMessage(messageId)).toMatchObject({
          state: "processed",
          workerId: "awake",
        });
        expect(await database.knex()("effects").where({ message_id: messageId })).toMatchObject([
          { process: 0 },
        ]);
      }
      expect(await queue.getMessages(`${to}-asker`)).toEqual([]);
    },
  );
});
