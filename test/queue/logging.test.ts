import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import {
  disableFileLogging,
  enableFileLogging,
  getFileLogger,
  listLogFiles,
  MessageQueueManager,
  openOutbox,
} from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure, mailbox, note } from "../support/queue.ts";

async function folder(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "outbox-logs-"));
  onTestFinished(() => rm(path, { recursive: true, force: true }));
  return path;
}

async function auditLines(baseDir: string): Promise<Record<string, unknown>[]> {
  const lines: Record<string, unknown>[] = [];
  for (const file of await listLogFiles(baseDir)) {
    if (!file.path.includes("message_audit")) continue;
    for (const line of (await readFile(file.path, "utf8")).split("\n")) {
      if (line !== "") lines.push(JSON.parse(line));
    }
  }
  return lines;
}

eachDatabase("file logging", (database) => {
  it("G12: a line is written for what has committed, and for nothing else", async () => {
    const baseDir = await folder();
    const outbox = await openOutbox({ database: database.knex(), fileLogging: { baseDir } });
    const to = mailbox();
    const lost: string[] = [];
    await failure(() =>
      outbox.knex.transaction(async (tx) => {
        lost.push((await outbox.queue.sendMessage(note(to), { tx })).messageId);
        throw new Error("rolled back");
      }),
    );
    const sent = await outbox.knex.transaction((tx) =>
      outbox.queue.sendMessage({ ...note(to), messageType: "task_request" }, { tx }),
    );
    const [claim] = await outbox.queue.getMessages(to);
    await claim?.nack(new Error("once"), { delayMs: 0 });
    await (await outbox.queue.getMessages(to))[0]?.ack();
    await outbox.close();
    const lines = await auditLines(baseDir);
    expect(lines.filter(({ message_id }) => lost.includes(String(message_id)))).toEqual([]);
    expect(lines.map(({ event }) => event)).toEqual([
      "sent",
      "received",
      "retried",
      "received",
      "processed",
    ]);
    expect(lines[0]).toMatchObject({
      message_id: sent.messageId,
      from_agent: "system",
      to_agent: to,
      message_type: "task_assignment",
    });
  });

  it("G12: the line of what was committed last is there when the outbox was closed", async () => {
    const baseDir = await folder();
    const outbox = await openOutbox({ database: database.knex(), fileLogging: { baseDir } });
    const { messageId } = await outbox.knex.transaction((tx) =>
      outbox.queue.sendMessage(note(mailbox()), { tx }),
    );
    await outbox.close();
    expect((await auditLines(baseDir)).map(({ message_id }) => message_id)).toEqual([messageId]);
  });

  it("G12: a log folder that cannot be written costs lines and one warning, never a message", async () => {
    const blocked = join(await folder(), "a-file");
    await writeFile(blocked, "not a folder");
    const warnings: string[] = [];
    const outbox = await openOutbox({
      database: database.knex(),
      fileLogging: { baseDir: join(blocked, "logs"), onWarning: (text) => warnings.push(text) },
    });
    const to = mailbox();
    for (let n = 0; n < 20; n++) await outbox.queue.sendMessage(note(to, { n }));
    const got = await outbox.queue.getMessages(to, { limit: 20 });
    expect(got).toHaveLength(20);
    expect(new Set(await outbox.queue.ackMessages(got))).toEqual(new Set(["acked"]));
    await outbox.close();
    expect(warnings).toHaveLength(1);
  });

  it("enableFileLogging logs what every queue of the process commits, until it is switched off", async () => {
    const baseDir = await folder();
    const queue = new MessageQueueManager(database.knex());
    onTestFinished(() => queue.close());
    const logger = enableFileLogging({ baseDir, layout: "flat" });
    expect(getFileLogger()).toBe(logger);
    const { messageId } = await queue.sendMessage(note(mailbox()));
    await disableFileLogging();
    await queue.sendMessage(note(mailbox()));
    expect(getFileLogger()).toBeUndefined();
    expect((await auditLines(baseDir)).map(({ message_id }) => message_id)).toEqual([messageId]);
  });

  it("G12: an observer that throws disturbs neither the send nor the other observers", async () => {
    const outbox = await openOutbox({ database: database.knex() });
    const seen: string[] = [];
    outbox.observe(() => {
      throw new Error("observer");
    });
    const stop = outbox.observe((events) => seen.push(...events.map(({ type }) => type)));
    const to = mailbox();
    await outbox.queue.sendMessage(note(to));
    stop();
    await outbox.queue.sendMessage(note(to));
    expect(seen).toEqual(["message"]);
    expect(await outbox.queue.getMessages(to)).toHaveLength(2);
    await outbox.close();
  });
});
