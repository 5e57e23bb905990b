import { mkdtemp, readdir, rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  type ClaimCheckStore,
  FileClaimCheckStore,
  type MessageQueueManager,
  type QueueOptionsInput,
} from "../../lib/index.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { PayloadStore } from "../../lib/store/payloads.ts";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";

async function folder(): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), "outbox-claim-check-"));
  onTestFinished(() => rm(made, { recursive: true, force: true }));
  return made;
}

const large = () => ({ text: "x".repeat(5_000) });

async function paths(dir: string): Promise<string[]> {
  const all = await readdir(dir, { recursive: true, withFileTypes: true });
  return all.filter((one) => one.isFile()).map((one) => join(one.parentPath, one.name));
}

const count = async (dir: string) => (await paths(dir)).length;

/** As if the contents had been stored two days ago. */
async function age(dir: string): Promise<void> {
  const past = Date.now() / 1_000 - 2 * 86_400;
  for (const path of await paths(dir)) await utimes(path, past, past);
}

const using = (store: ClaimCheckStore, options: QueueOptionsInput = {}): QueueOptionsInput => ({
  ...options,
  claimCheck: { store, aboveBytes: 1_000 },
});

eachDatabase("contents in a claim-check store", (database) => {
  const open = (dir: string, options: QueueOptionsInput = {}): MessageQueueManager =>
    watched(database.knex(), using(new FileClaimCheckStore(dir), options)).queue;

  describe("end with their row, after the commit", () => {
    it("acknowledged and not archived", async () => {
      const dir = await folder();
      const queue = open(dir, { archiveRetentionMs: 0 });
      const to = mailbox();
      await queue.sendMessage(note(to, large()));
      const [claim] = await queue.getMessages(to);
      await expect(
        queue.knex.transaction(async (tx) => {
          expect(await claim?.ack({ tx })).toBe("acked");
          throw new Error("undone");
        }),
      ).rejects.toThrow("undone");
      expect(await count(dir)).toBe(1);
      await queue.knex.transaction((tx) => claim?.ack({ tx }) as Promise<string>);
      await until(async () => (await count(dir)) === 0);
      await queue.sendMessage(note(to, large()));
      const worker = queue.work(to, () => undefined);
      await until(
        async () => (await queue.getQueueStats(to)).pending === 0 && (await count(dir)) === 0,
      );
      await worker.stop();
    });

    it("of several recipients with the last one's", async () => {
      const dir = await folder();
      const queue = open(dir, { archiveRetentionMs: 0 });
      const [one, two] = [mailbox(), mailbox()];
      const { messageId } = await queue.sendMessage({ ...note(one, large()), toAgent: [one, two] });
      expect(await count(dir)).toBe(1);
      await (await queue.getMessages(one))[0]?.ack();
      await (await queue.getMessages(two))[0]?.deadLetter("rejected");
      await queue.deadLetters.redrive({ messageIds: [messageId] });
      const [last] = await queue.getMessages(two);
      expect(last?.content).toEqual(large());
      await last?.ack();
      await until(async () => (await count(dir)) === 0);
    });

    it("cancelled and not archived, discarded, purged from the archive", async () => {
      const dir = await folder();
      const queue = open(dir, { archiveRetentionMs: 0 });
      const to = mailbox();
      const cancelled = await queue.sendMessage(note(to, large()));
      await queue.cancelMessage(cancelled.messageId);
      await until(async () => (await count(dir)) === 0);
      await queue.sendMessage(note(to, large()));
      await (await queue.getMessages(to))[0]?.deadLetter("rejected");
      expect(await queue.deadLetters.discard({ agentId: to })).toMatchObject({ discarded: 1 });
      await until(async () => (await count(dir)) === 0);
      const keeping = open(dir, { archiveRetentionMs: 1_000 });
      const { messageId } = await keeping.sendMessage(note(to, large()));
      await (await keeping.getMessages(to))[0]?.ack();
      expect((await keeping.getMessage(messageId))?.content).toEqual(large());
      await database
        .knex()("outbox_archive")
        .where({ message_id: messageId })
        .update({ finished_at: 1 });
      await keeping.maintain();
      await until(async () => (await count(dir)) === 0);
    });

    it("sent twice: the second one's goes at once", async () => {
      const dir = await folder();
      const queue = open(dir);
      const to = mailbox();
      const message = { ...note(to, large()), messageId: `own-${to}` };
      expect((await queue.sendMessage(message)).duplicate).toBe(false);
      const again = await queue.sendMessages([message, note(to, large())]);
      expect(again.map(({ duplicate }) => duplicate)).toEqual([true, false]);
      await until(async () => (await count(dir)) === 2);
      const claims = await queue.getMessages(to);
      expect(claims.map(({ content }) => content)).toEqual([large(), large()]);
    });
  });

  it("that no message needs are swept, once they are old; all others stay", async () => {
    const dir = await folder();
    const queue = open(dir);
    const to = mailbox();
    await (await send(queue, to))?.ack();
    await (await send(queue, to))?.deadLetter("rejected");
    await send(queue, to);
    await expect(
      queue.knex.transaction(async (tx) => {
        await queue.sendMessage(note(to, large()), { tx });
        throw new Error("undone");
      }),
    ).rejects.toThrow("undone");
    expect(await queue.sweepPayloads()).toMatchObject({ seen: 4, orphaned: 0, deleted: 0 });
    await age(dir);
    const dry = await queue.sweepPayloads({ dryRun: true });
    expect(dry).toEqual({ dryRun: true, seen: 4, orphaned: 1, deleted: 0, stopped: false });
    expect(await count(dir)).toBe(4);
    expect(await queue.sweepPayloads()).toMatchObject({ seen: 4, orphaned: 1, deleted: 1 });
    expect(await queue.sweepPayloads()).toMatchObject({ seen: 3, orphaned: 0 });
    expect(await count(dir)).toBe(3);
  });

  it("of another database are none of its business", async () => {
    const dir = await folder();
    const other = await database.fresh();
    const theirs = watched(other.knex, using(new FileClaimCheckStore(dir))).queue;
    const to = mailbox();
    await theirs.sendMessage(note(to, large()));
    const ours = open(dir);
    await ours.sendMessage(note(to, large()));
    await age(dir);
    expect(await ours.sweepPayloads()).toMatchObject({ seen: 1, orphaned: 0 });
    expect((await theirs.getMessages(to))[0]?.content).toEqual(large());
  });

  it("of senders at work are left alone by sweeps that run all the time", async () => {
    const dir = await folder();
    const queue = open(dir);
    const to = mailbox();
    let sending = true;
    const sweeping = (async () => {
      let sweeps = 0;
      while (sending) {
        await queue.sweepPayloads({ olderThanMs: 60_000 });
        sweeps++;
      }
      return sweeps;
    })();
    for (let n = 0; n < 10; n++) {
      await Promise.all([1, 2, 3].map(() => queue.sendMessage(note(to, large()))));
      // The older half is beyond the grace period: only its rows protect it.
      if (n === 4) await age(dir);
    }
    sending = false;
    expect(await sweeping).toBeGreaterThan(0);
    const claims = await queue.getMessages(to, { limit: 100 });
    expect(claims.map(({ content }) => content)).toEqual(Array.from({ length: 30 }, large));
  });

  it("of a sender that is killed before its commit leave no message, and are swept", async () => {
    const dir = await folder();
    const queue = open(dir);
    const to = mailbox();
    await queue.sendMessage(note(mailbox(), large()));
    const script = "test/claim-check/programs/sends.ts";
    const sender = spawnScript(script, [database.url(), dir, to]);
    const { messageId } = await sender.message<{ messageId: string }>();
    expect(await count(dir)).toBe(2);
    sender.kill("SIGKILL");
    await sender.exited;
    expect(await queue.getMessage(messageId)).toBe(null);
    await age(dir);
    expect(await queue.sweepPayloads()).toMatchObject({ seen: 2, orphaned: 1, deleted: 1 });
  });

  it("whose store fails are not sent", async () => {
    const to = mailbox();
    const gone: string[] = [];
    const full: ClaimCheckStore = {
      put: async (key) => {
        gone.push(key);
        throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
      },
      get: async () => null,
      delete: async () => undefined,
    };
    const { queue } = watched(database.knex(), using(full));
    const error = await failure(() => queue.sendMessages([note(to), note(to, large())]));
    expect(error).toMatchObject({ code: "CONTENT_UNAVAILABLE", retryable: true });
    expect(error.message).toContain("no space left on device");
    expect(gone).toHaveLength(1);
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 0 });
    const mine = await failure(() => queue.sweepPayloads());
    expect(mine.code).toBe("INVALID_CONFIGURATION");
    expect(mine.message).toContain("cannot list");
    const none = await failure(() => watched(database.knex()).queue.sweepPayloads());
    expect(none.recoverySuggestion).toContain("OUTBOX_CLAIM_CHECK_DIR");
    const young = await failure(() => queue.sweepPayloads({ olderThanMs: 59_999 }));
    expect(young.code).toBe("VALIDATION_FAILED");
  });

  it("have one sweeper in an hour and one name, however many processes ask", async () => {
    const { knex } = await database.fresh();
    const stores = Array.from(
      { length: 4 },
      () => new PayloadStore(knex, dialectFor(database.dialect, "outbox_"), "outbox_"),
    );
    const turns = await Promise.all(stores.map((store) => store.takeTurn(3_600_000)));
    expect(turns.filter((mine) => mine)).toHaveLength(1);
    const names = await Promise.all(stores.map((store) => store.outbox()));
    expect(new Set(names).size).toBe(1);
    // A name made in a transaction that is undone is not used again.
    const later = await database.fresh();
    const store = new PayloadStore(later.knex, dialectFor(database.dialect, "outbox_"), "outbox_");
    let undone = "";
    await later.knex
      .transaction(async (tx) => {
        undone = await store.outbox(tx);
        throw new Error("undone");
      })
      .catch(() => undefined);
    expect(await store.outbox()).not.toBe(undone);
  });

  it("are swept from the command line", async () => {
    const dir = await folder();
    const queue = open(dir);
    const to = mailbox();
    await send(queue, to);
    await queue.knex
      .transaction(async (tx) => {
        await queue.sendMessage(note(to, large()), { tx });
        throw new Error("undone");
      })
      .catch(() => undefined);
    await age(dir);
    const cli = (...args: string[]) =>
      runCli(["payloads", "sweep", ...args], {
        database: database.url(),
        env: { OUTBOX_CLAIM_CHECK_DIR: dir },
      });
    const dry = await cli("--dry-run", "--json");
    expect(dry.json()).toMatchObject({ dry_run: true, seen: 2, orphaned: 1, deleted: 0 });
    const done = await cli();
    expect(done.code).toBe(0);
    expect(done.err + done.out).toContain("deleted 1");
    const without = await runCli(["payloads", "sweep"], { database: database.url() });
    expect(without.code).not.toBe(0);
    expect(without.err).toContain("OUTBOX_CLAIM_CHECK_DIR");
  });
});

async function send(queue: MessageQueueManager, to: string) {
  await queue.sendMessage(note(to, large()));
  const [claim] = await queue.getMessages(to);
  return claim;
}
