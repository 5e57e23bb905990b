import { openOutbox } from "../lib/index.ts";

const outbox = await openOutbox({ database: "sqlite:./quickstart.sqlite", migrate: true });
const { knex, queue } = outbox;
await knex.raw("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT)");

// The order and the message about it are one commit: both are stored, or neither is.
await knex.transaction(async (tx) => {
  const [order] = await tx("orders").insert({ item: "kite" }).returning(["id", "item"]);
  await queue.sendMessage(
    { toAgent: "shipping", messageType: "ORDER_PLACED", content: order },
    { tx },
  );
});

// Here or in any other process: returning acknowledges the message, throwing brings it back later.
await new Promise<void>((resolve) => {
  queue.work("shipping", async (message) => {
    console.log(`${message.messageType}:`, message.content);
    resolve();
  });
});
await outbox.close();
