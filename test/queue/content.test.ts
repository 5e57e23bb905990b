import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Knex } from "knex";
import { expect, it, onTestFinished } from "vitest";
import {
  type ClaimedMessage,
  FileClaimCheckStore,
  type MessageQueueManager,
  type QueueOptionsInput,
} from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";

/** Compresses well. */
const wordy = (bytes: number) => ({ text: "all work and no play ".repeat(Math.ceil(bytes / 21)) });
/** Does not. */
const noise = (bytes: number) => ({
  text: randomBytes(Math.ceil((bytes * 3) / 4)).toString("base64"),
});

async function folder(): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), "outbox-content-"));
  onTestFinished(() => rm(made, { recursive: true, force: true }));
  return made;
}

/** Every content in the folder. */
async function files(dir: string): Promise<string[]> {
  const all = await readdir(dir, { recursive: true, withFileTypes: true });
  return all
    .filter((one) => one.isFile() && !one.parentPath.endsWith("incoming"))
    .map((one) => join(one.parentPath, one.name));
}

async function row(knex: Knex, messageId: string, table = "messages") {
  const [found] = await knex(`outbox_${table}`).where({ message_id: messageId });
  const content = typeof found?.content === "string" ? JSON.parse(found.content) : found?.content;
  return { encoding: found?.content_encoding as string | null, content };
}

async function stored(dir: string, options: QueueOptionsInput = {}): Promise<QueueOptionsInput> {
  return {
    ...options,
    claimCheck: { store: new FileClaimCheckStore(dir), aboveBytes: 20_000 },
  };
}

eachDatabase("large contents", (database) => {
  const KINDS = [
    ["plain", wordy(1_000), null],
    ["gzip", wordy(12_000), "gzip"],
    ["ref", wordy(60_000), "ref"],
    ["ref, not compressible", noise(60_000), "ref"],
    ["plain, not compressible", noise(12_000), null],
  ] as const;

  for (const [name, content, encoding] of KINDS) {
    it(`come back as they were, wherever the message is: ${name}`, async () => {
      const knex = database.knex();
      const { queue } = watched(knex, await stored(await folder()));
      const to = mailbox();
      const { messageId } = await queue.sendMessage(note(to, content));
      expect((await row(knex, messageId)).encoding).toBe(encoding);
      const shown = await queue.getMessage(messageId);
      expect(shown?.content).toEqual(content);
      expect(shown?.contentRef === null).toBe(encoding !== "ref");
      const [claim] = await queue.getMessages(to);
      expect(claim?.content).toEqual(content);
      expect(claim?.toJSON().content).toEqual(content);
      await claim?.deadLetter("rejected");
      expect((await queue.deadLetters.get(messageId))?.content).toEqual(content);
      const [listed] = await queue.deadLetters.list({ messageIds: [messageId] });
      expect(listed?.content).toEqual(encoding === "ref" ? null : content);
      expect(listed?.contentRef === null).toBe(encoding !== "ref");
      await queue.deadLetters.redrive({ messageIds: [messageId] });
      const [again] = await queue.getMessages(to);
      expect(again?.content).toEqual(content);
      await again?.defer(0);
      const seen: unknown[] = [];
      const worker = queue.work(to, (message) => {
        seen.push(message.content);
      });
      await until(async () => (await queue.getMessage(messageId))?.state === "processed");
      await worker.stop();
      expect(seen).toEqual([content]);
      expect((await row(knex, messageId, "archive")).encoding).toBe(encoding);
      expect((await queue.getMessage(messageId))?.content).toEqual(content);
    });
  }

  it("are compressed from the first byte above the limit, and never with compress: false", async () => {
    const knex = database.knex();
    const encodingOf = async (bytes: number, options: QueueOptionsInput = {}, letter = "x") => {
      const { queue } = watched(knex, options);
      const shell = JSON.stringify({ text: "" }).length;
      const text = letter.repeat((bytes - shell) / Buffer.byteLength(letter));
      const { messageId } = await queue.sendMessage(note(mailbox(), { text }));
      return (await row(knex, messageId)).encoding;
    };
    expect(await encodingOf(8_192)).toBe(null);
    expect(await encodingOf(8_193)).toBe("gzip");
    // Bytes count, not characters.
    expect(await encodingOf(8_192, {}, "한")).toBe(null);
    expect(await encodingOf(8_195, {}, "한")).toBe("gzip");
    expect(await encodingOf(999, { compress: { aboveBytes: 999 } })).toBe(null);
    expect(await encodingOf(1_000, { compress: { aboveBytes: 999 } })).toBe("gzip");
    expect(await encodingOf(500_000, { compress: false })).toBe(null);
  });

  it("a sender cannot say how a content is encoded", async () => {
    const knex = database.knex();
    const { queue } = watched(knex);
    const to = mailbox();
    const forged = { gzip: "AAAA", bytes: 10, ref: "../../etc/passwd" };
    for (const field of ["contentEncoding", "content_encoding"]) {
      const input = { ...note(to, forged), [field]: "gzip" };
      expect((await failure(() => queue.sendMessage(input as never))).code).toBe(
        "VALIDATION_FAILED",
      );
    }
    await queue.sendMessage(note(to, forged));
    const [claim] = await queue.getMessages(to);
    expect(claim?.content).toEqual(forged);
  });

  it("above the limits are refused with the option to set, and nothing is stored", async () => {
    const knex = database.knex();
    const to = mailbox();
    const dir = await folder();
    const refused = async (queue: MessageQueueManager, content: object, headers?: object) => {
      const error = await failure(() =>
        queue.sendMessage({ ...note(to, content), ...(headers as object) }),
      );
      expect(error.code).toBe("PAYLOAD_TOO_LARGE");
      return `${error.message} ${error.recoverySuggestion}`;
    };
    const plain = watched(knex, { maxMessageBytes: 5_000 }).queue;
    const told = await refused(plain, wordy(5_100));
    expect(told).toMatch(/51\d\d bytes are more than the limit of 5000/);
    expect(told).toContain("claimCheck: { store: new FileClaimCheckStore");
    expect(told).toContain("OUTBOX_CLAIM_CHECK_DIR");
    expect(told).toContain("maxMessageBytes");
    const claimCheck = { store: new FileClaimCheckStore(dir), maxBytes: 30_000 };
    const roomy = watched(knex, { maxMessageBytes: 5_000, claimCheck }).queue;
    expect(await refused(roomy, wordy(31_000))).toContain("claimCheck.maxBytes");
    const headers = Object.fromEntries(["a", "b"].map((name) => [name, "h".repeat(4_000)]));
    expect(await refused(roomy, { n: 1 }, { headers })).toContain("maxMessageBytes");
    expect(await files(dir)).toEqual([]);
    expect(await queue_depth(roomy, to)).toBe(0);
    // What no row may hold goes into the store, although it is below its threshold.
    const { messageId } = await roomy.sendMessage(note(to, wordy(6_000)));
    expect((await row(knex, messageId)).encoding).toBe("ref");
  });

  it("that are damaged are dead letters with a reason, and hold up nobody", async () => {
    const knex = database.knex();
    const dir = await folder();
    const options = await stored(dir);
    const damage: Record<string, (messageId: string) => Promise<void>> = {
      "no gzip at all": (id) => set(knex, id, { gzip: "bm8gZ3ppcA==", bytes: 12_000 }),
      "another size": async (id) => {
        const { content } = await row(knex, id);
        await set(knex, id, { ...content, bytes: content.bytes - 1 });
      },
      "more than anyone unpacks": async (id) => {
        const { content } = await row(knex, id);
        await set(knex, id, { ...content, bytes: 900_000_000 });
      },
      "no field": (id) => set(knex, id, { n: 1 }),
      "an unknown encoding": async (id) => {
        await knex("outbox_messages")
          .where({ message_id: id })
          .update({ content_encoding: "zstd" });
      },
    };
    for (const [name, spoil] of Object.entries(damage)) {
      for (const receive of [byCall, byWorker]) {
        const { queue } = watched(knex, options);
        const to = mailbox();
        const { messageId } = await queue.sendMessage(note(to, wordy(12_000)));
        await queue.sendMessage(note(to, { healthy: true }));
        await spoil(messageId);
        expect(await receive(queue, to), name).toEqual([{ healthy: true }]);
        const letter = await queue.deadLetters.get(messageId);
        expect(letter, name).toMatchObject({
          reason: "unreadable_content",
          content: null,
          lastError: { code: "CONTENT_UNREADABLE" },
        });
      }
    }
  });

  it("that are damaged in the store are dead letters, too; a missing one after its last run", async () => {
    const knex = database.knex();
    for (const receive of [byCall, byWorker]) {
      const dir = await folder();
      const { queue } = watched(knex, await stored(dir, { retryPolicy: { maxAttempts: 1 } }));
      const to = mailbox();
      const changed = await queue.sendMessage(note(to, wordy(60_000)));
      const [file] = await files(dir);
      const bytes = await readFile(String(file));
      bytes[20] = (bytes[20] ?? 0) ^ 1;
      await writeFile(String(file), bytes);
      const missing = await queue.sendMessage(note(to, wordy(60_000)));
      for (const path of await files(dir)) if (path !== file) await rm(path);
      await queue.sendMessage(note(to, { healthy: true }));
      expect(await receive(queue, to)).toEqual([{ healthy: true }]);
      expect(await queue.deadLetters.get(changed.messageId)).toMatchObject({
        reason: "unreadable_content",
        lastError: { code: "CONTENT_UNREADABLE" },
      });
      expect(await queue.deadLetters.get(missing.messageId)).toMatchObject({
        reason: "max_attempts",
        lastError: { code: "CONTENT_MISSING" },
        content: null,
        contentRef: { bytes: expect.any(Number) },
      });
    }
  });

  it("wait without losing a run while the store is away, and others go on", async () => {
    const knex = database.knex();
    for (const receive of [byCall, byWorker]) {
      const dir = await folder();
      const { queue } = watched(knex, await stored(dir));
      const to = mailbox();
      const { messageId } = await queue.sendMessage(note(to, wordy(60_000)));
      await queue.sendMessage(note(to, { healthy: true }));
      // A process that was not given a store, and one whose folder is not mounted.
      const away = [{}, await stored(join(dir, "elsewhere"))];
      for (const options of away) {
        const other = watched(knex, options).queue;
        await knex("outbox_messages")
          .where({ to_agent: to })
          .update({ state: 0, due_at: null, visible_at: 0 });
        const got = await receive(other, to, false);
        expect(got).toEqual([{ healthy: true }]);
        expect(await queue.getMessage(messageId)).toMatchObject({
          state: "scheduled",
          attempt: 0,
          lastError: { code: "CONTENT_UNAVAILABLE" },
        });
        await queue.sendMessage(note(to, { healthy: true }));
      }
      await knex("outbox_messages")
        .where({ message_id: messageId })
        .update({ state: 0, due_at: null, visible_at: 0 });
      const [claim] = await queue.getMessages(to, { limit: 1 });
      expect(claim).toMatchObject({ messageId, attempt: 1, content: wordy(60_000) });
    }
  });

  it("G9: that come too late start no handler", async () => {
    const knex = database.knex();
    const files = new FileClaimCheckStore(await folder());
    let loads = 0;
    const slow = {
      put: files.put.bind(files),
      delete: files.delete.bind(files),
      get: async (key: string) => {
        loads++;
        // Longer than the message lives.
        await new Promise((resolve) => setTimeout(resolve, 6_100));
        return files.get(key);
      },
    };
    const { queue } = watched(knex, { claimCheck: { store: slow, aboveBytes: 20_000 } });
    const to = mailbox();
    let handled = 0;
    const worker = queue.work(to, () => {
      handled++;
    });
    const { messageId } = await queue.sendMessage({ ...note(to, wordy(30_000)), ttlMs: 6_000 });
    await until(
      async () => (await queue.deadLetters.list({ messageIds: [messageId] })).length === 1,
    );
    await worker.stop();
    expect(await queue.deadLetters.get(messageId)).toMatchObject({ reason: "expired" });
    expect(handled).toBe(0);
    expect(loads).toBeGreaterThan(0);
  });

  it("that come slowly keep their lease", async () => {
    const knex = database.knex();
    const files = new FileClaimCheckStore(await folder());
    const to = mailbox();
    const leaseEnd = async () => {
      const [found] = await knex("outbox_messages").where({ to_agent: to });
      return Number(found?.visible_at);
    };
    const ends = new Set<number>();
    const slow = {
      put: files.put.bind(files),
      delete: files.delete.bind(files),
      // Until the lease was made longer twice.
      get: async (key: string) => {
        await until(async () => ends.add(await leaseEnd()).size > 2);
        return files.get(key);
      },
    };
    const { queue } = watched(knex, { claimCheck: { store: slow, aboveBytes: 20_000 } });
    await queue.sendMessage(note(to, wordy(30_000)));
    const [claim] = await queue.getMessages(to, { leaseMs: 3_000 });
    expect(claim).toMatchObject({ attempt: 1, content: wordy(30_000) });
    expect(await claim?.ack()).toBe("acked");
  });
});

async function queue_depth(queue: MessageQueueManager, agent: string): Promise<number> {
  return (await queue.getQueueStats(agent)).pending;
}

async function set(knex: Knex, messageId: string, content: object): Promise<void> {
  await knex("outbox_messages")
    .where({ message_id: messageId })
    .update({ content: JSON.stringify(content) });
}

async function byCall(queue: MessageQueueManager, to: string, ack = true): Promise<unknown[]> {
  const claims: ClaimedMessage[] = await queue.getMessages(to);
  if (ack) await queue.ackMessages(claims);
  else for (const claim of claims) await claim.ack();
  return claims.map(({ content }) => content);
}

/** Until nothing of the mailbox is ready any more. */
async function byWorker(queue: MessageQueueManager, to: string): Promise<unknown[]> {
  const seen: unknown[] = [];
  const worker = queue.work(
    to,
    (message) => {
      seen.push(message.content);
    },
    { onError: () => undefined },
  );
  await until(async () => {
    const { pending, leased } = await queue.getQueueStats(to);
    return pending + leased === 0;
  });
  await worker.stop();
  return seen;
}
