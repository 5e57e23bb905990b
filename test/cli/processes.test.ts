import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, watched } from "../support/queue.ts";
import { runCli, spawnCli } from "./support.ts";

describe("the command in a process of its own", () => {
  it("ends with the exit code of what it did", async () => {
    const [help, wrong] = [spawnCli(["--help"]), spawnCli(["sned"])];
    expect(await help.exited).toEqual({ code: 0, signal: null });
    expect(help.out()).toContain("Usage");
    expect(await wrong.exited).toEqual({ code: 2, signal: null });
    expect(wrong.err()).toBe('error: there is no command "sned"\n  fix: Did you mean "send"?\n');
  });

  it("does not make a database file where there is none", async () => {
    const folder = await mkdtemp(join(tmpdir(), "outbox-cli-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const database = `sqlite:${join(folder, "none.sqlite")}`;
    for (const argv of [["stats"], ["doctor"], ["migrate", "--down"], ["why", "x"]]) {
      const { code, err } = await runCli(argv, { database });
      expect({ code, fix: err.includes("agent-outbox migrate") }, argv[0]).toEqual({
        code: 1,
        fix: true,
      });
    }
    const status = await runCli(["migrate", "--status"], { database });
    expect(status).toMatchObject({ code: 0, out: expect.stringMatching(/001_messages +pending/) });
    expect((await runCli(["migrate", "--dry-run"], { database })).out).toContain("create table");
    expect(await readdir(folder)).toEqual([]);
    const health = await runCli(["health", "--json"], { database });
    expect(health.code).toBe(3);
    expect(health.json()).toMatchObject({
      database_connected: false,
      problems: [{ check: "database_connected", remedy: expect.stringContaining("migrate") }],
    });
    expect(await readdir(folder)).toEqual([]);
    expect((await runCli(["migrate"], { database })).code).toBe(0);
    expect((await runCli(["stats"], { database })).code).toBe(0);
  });

  it("works in memory where the environment asks for a mock", async () => {
    const env = { AGENT_COMMUNICATION_MODE: "mock" };
    expect((await runCli(["send", "a", "--type", "t"], { env })).code).toBe(0);
  });
});

eachDatabase("the command in a process of its own", (database) => {
  const options = () => ({ database: database.url() });

  it.skipIf(["sqlite"].includes(database.dialect))(
    "tells a wrong password in one line (SQLite has none)",
    async () => {
      const url = new URL(database.url());
      url.password = "wrong-password";
      const { code, err } = await runCli(["stats"], { database: url.href });
      expect(code).toBe(1);
      expect(err).toMatch(/^error: the database refused: .*\n {2}fix: .*credentials\.\n$/);
      expect(err).not.toContain("wrong-password");
    },
  );

  it("ends quietly when its reader has gone", async () => {
    const watching = spawnCli(["stats", "--watch", "--interval-ms", "100"], options());
    await until(() => watching.out().includes("pending"));
    watching.child.stdout.destroy();
    expect(await watching.exited).toEqual({ code: 0, signal: null });
    expect(watching.err()).toBe("");
  });

  it("ends at once at Ctrl-C while it watches or waits", async () => {
    const watching = spawnCli(["stats", "--watch", "--interval-ms", "60000"], options());
    const waiting = spawnCli(["receive", "nobody", "--wait-ms", "60000"], options());
    await until(() => watching.out().includes("pending"));
    watching.child.kill("SIGINT");
    expect(await watching.exited).toEqual({ code: 130, signal: null });
    // It is noted among the consumers of its mailbox once it looks there.
    const { queue } = watched(database.knex());
    await until(async () => (await queue.consumers("nobody")).length === 1);
    waiting.child.kill("SIGTERM");
    expect(await waiting.exited).toEqual({ code: 143, signal: null });
    expect(watching.err() + waiting.err()).toBe("");
  });

  it("lets a program finish at the first Ctrl-C, and ends it at the second", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("work");
    const { messageId } = await queue.sendMessage({ toAgent: to, messageType: "t", content: {} });
    const working = spawnCli(
      ["work", to, "--lease-ms", "5000", "--exec", "echo started $$ >&2; sleep 60; true"],
      options(),
    );
    const [, pid] = await until(() => /started (\d+)/.exec(working.err()));
    working.child.kill("SIGINT");
    await until(() => working.err().includes("Stopping"));
    expect(working.child.exitCode).toBe(null);
    working.child.kill("SIGINT");
    expect(await working.exited).toEqual({ code: 130, signal: null });
    await until(() => !running(Number(pid)));
    // Its lease passes, and the message is there for others: nothing is lost.
    const [claim] = await queue.getMessages(to, { waitMs: 30_000 });
    expect(claim).toMatchObject({ messageId, attempt: 2 });
  });
});

function running(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
