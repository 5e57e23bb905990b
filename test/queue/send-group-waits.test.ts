import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import type { EncodedMessage } from "../../lib/protocol/envelope.ts";
import { SendGroup } from "../../lib/queue/flow/send-group.ts";
import type { Sent } from "../../lib/store/sending.ts";

const message = (name: string) => ({ messageId: name, contentText: "{}" }) as EncodedMessage;

it("a group that waits for somebody's lock does not keep those that come later", async () => {
  let unlock = () => {};
  const locked = new Promise<void>((resolve) => {
    unlock = resolve;
  });
  const group = new SendGroup(async (messages) => {
    if (messages.some(({ messageId }) => messageId === "locked")) await locked;
    return messages.map(({ messageId }) => ({ messageId }) as unknown as Sent);
  });
  const first = group.send(message("locked"));
  // Longer than a group is waited for: nothing was waiting when that time was over.
  await sleep(100);
  const late = group.send(message("late"));
  expect(await Promise.race([late, sleep(2_000, "kept")])).toMatchObject({ messageId: "late" });
  unlock();
  await first;
});
