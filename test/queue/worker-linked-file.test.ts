import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { openOutbox } from "../../lib/index.ts";
import { connect } from "../../lib/store/connect.ts";
import { sqliteChannel } from "../../lib/store/sqlite-watch.ts";
import { until } from "../support/processes.ts";
import { mailbox, note } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

it("commits to a SQLite file are heard also where a link leads to it", TIMED, async () => {
  const folder = mkdtempSync(join(tmpdir(), "outbox-link-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, "data"));
  const file = join(folder, "data", "real.db");
  const outbox = await openOutbox({ database: `sqlite:${file}`, migrate: true });
  onTestFinished(() => outbox.close());
  symlinkSync(file, join(folder, "link.db"));
  const { knex } = connect(`sqlite:${join(folder, "link.db")}`);
  onTestFinished(() => knex.destroy());
  let heard = 0;
  const listener = await sqliteChannel(knex)?.listen({
    heard: () => void heard++,
    lost: () => undefined,
  });
  onTestFinished(() => listener?.close());
  await outbox.queue.sendMessage(note(mailbox()));
  await until(() => heard > 0, { timeoutMs: 3_000 });
  expect(heard).toBeGreaterThan(0);
});
