// Sends one message after another, in a transaction of its own or not, and says what has committed.
import { openOutbox } from "../../../lib/index.ts";

const [name = "sender", to = "mailbox"] = process.argv.slice(2);
const outbox = await openOutbox({ database: String(process.env.DATABASE_URL) });
await outbox.knex.raw("SELECT 1");

for (let n = 0; ; n++) {
  const message = {
    toAgent: to,
    fromAgent: name,
    messageType: "NOTE",
    messageId: `${name}-${n}`,
    content: { n },
  };
  if (n % 3 === 0) await outbox.knex.transaction((tx) => outbox.queue.sendMessage(message, { tx }));
  else await outbox.queue.sendMessage(message);
  process.send?.({ committed: message.messageId });
}
