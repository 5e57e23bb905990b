/**
 * SOLEil, scenario 1: a file is added to the drive, its content is parsed, and every user's copy is told. Each
 * module writes what it did in the transaction that acknowledges what it was told: no step is lost or done twice.
 */
import type { StoredMessage } from "../../lib/index.ts";
import { Cast, type Scenario, until } from "./scenario.ts";

const USERS = ["user-ana", "user-ben", "user-caro"];
const FILE = { file_id: "file-1", name: "score.pdf", pages: 12 };

export interface UploadResult {
  /** DRIVE_FILE_ADDED, CONTENT_PARSED, and what each user got. */
  readonly messages: readonly StoredMessage[];
  readonly told: readonly string[];
}

export const upload: Scenario<UploadResult> = {
  name: "upload",
  title: "SOLEil: an uploaded file is parsed, and all users are told",
  async play(stage) {
    const { outbox, say } = stage;
    const { queue } = outbox;
    await using cast = new Cast(stage);
    const told = new Set<string>();

    cast.consumer("content-module", async (message, { tx }) => {
      const { file_id, name, pages } = message.content as typeof FILE;
      say("content-module", `parses ${name}: ${pages} pages`);
      await tx(async (trx) => {
        await queue.sendMessage(
          {
            fromAgent: "content-module",
            toAgent: "sync-module",
            messageId: `parsed-${file_id}`,
            messageType: "CONTENT_PARSED",
            content: { file_id, name, charts: pages },
            correlationId: message.correlationId ?? undefined,
          },
          { tx: trx },
        );
      });
    });
    cast.consumer("sync-module", async (message, { tx }) => {
      const { file_id, name } = message.content as typeof FILE;
      say("sync-module", `broadcasts ${name} to ${USERS.length} users`);
      await tx(async (trx) => {
        await queue.sendMessage(
          {
            fromAgent: "sync-module",
            toAgent: USERS,
            messageId: `synced-${file_id}`,
            messageType: "SYNC_FILE_AVAILABLE",
            content: { file_id, name },
            correlationId: message.correlationId ?? undefined,
          },
          { tx: trx },
        );
      });
    });
    for (const user of USERS) {
      cast.consumer(user, (message) => {
        say(user, `has ${(message.content as typeof FILE).name}`);
        told.add(user);
      });
    }

    say("drive-module", `${FILE.name} was added`);
    const added = {
      fromAgent: "drive-module",
      toAgent: "content-module",
      messageId: `added-${FILE.file_id}`,
      messageType: "DRIVE_FILE_ADDED",
      content: FILE,
      correlationId: "upload-1",
    };
    await queue.sendMessage(added);
    // The drive's webhook comes twice, as webhooks do: the id tells.
    const { duplicate } = await queue.sendMessage(added);
    say(
      "drive-module",
      duplicate ? "the webhook came again, and counts once" : "the webhook counted twice",
    );

    await until(async () => told.size === USERS.length);
    const ids = [`added-${FILE.file_id}`, `parsed-${FILE.file_id}`, `synced-${FILE.file_id}`];
    const messages = await until(async () => {
      const found = await Promise.all(ids.map((id) => queue.getMessage(id)));
      return found.every((one) => one?.state === "processed") && (found as StoredMessage[]);
    });
    return { messages, told: [...told].sort() };
  },
};
