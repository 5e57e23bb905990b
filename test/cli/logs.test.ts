import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, expect, it, onTestFinished } from "vitest";
import { FileLogger } from "../../lib/index.ts";
import { until } from "../support/processes.ts";
import { runCli } from "./support.ts";

let dir = "";
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "outbox-cli-logs-"));
  const old = new FileLogger(dir, () => Date.parse("2020-01-01T00:00:00Z"));
  old.logAgentActivity("worker-1", "registered", {});
  await old.close();
  const logger = new FileLogger(dir);
  logger.logAgentActivity("worker-1", "registered", { n: 1 });
  logger.logAgentActivity("worker-2", "registered", { n: 2 });
  logger.logError("worker-1", "Broken", "it \u001b[31mbroke");
  await logger.close();
  return () => rm(dir, { recursive: true, force: true });
});

it("the last lines are shown, filtered by file and agent", async () => {
  const all = await runCli(["logs", "tail", "--dir", dir, "-n", "3"]);
  expect(all.code).toBe(0);
  expect(all.out.trim().split("\n")).toHaveLength(3);
  expect(all.out).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} +agent_activity +/);
  expect(all.out).not.toContain("\u001b");
  const errors = await runCli(["logs", "tail", "--file", "errors", "--json"], {
    env: { OUTBOX_LOG_DIR: dir },
  });
  expect(errors.lines()).toMatchObject([{ agent_id: "worker-1", error_type: "Broken" }]);
  const one = await runCli(["logs", "tail", "--dir", dir, "--agent", "worker-2", "--json"]);
  expect(one.lines()).toMatchObject([{ agent_id: "worker-2" }]);
});

it("new lines follow until Ctrl-C", async () => {
  const stop = new AbortController();
  let ended = false;
  const following = runCli(["logs", "tail", "--dir", dir, "-n", "0", "-f", "--json"], {
    signal: stop.signal,
    onOutput: () => stop.abort("SIGINT"),
  }).finally(() => {
    ended = true;
  });
  const logger = new FileLogger(dir);
  onTestFinished(() => logger.close());
  let n = 0;
  await until(async () => {
    logger.logAgentActivity("worker-3", "beat", { n: n++ });
    return ended;
  });
  const { code, lines } = await following;
  expect(code).toBe(130);
  expect(lines().length).toBeGreaterThan(0);
  expect(lines()[0]).toMatchObject({ agent_id: "worker-3" });
});

it("no lines are told apart from no problem", async () => {
  const { code, err } = await runCli(["logs", "tail", "--dir", join(dir, "nothing")]);
  expect(code).toBe(4);
  expect(err).toContain("OUTBOX_LOG_DIR");
});

it("old days are removed, and nothing else", async () => {
  const kept = await runCli(["logs", "cleanup", "--dir", dir, "--keep", "520w"]);
  expect(kept).toMatchObject({ code: 0, out: expect.stringContaining("older than 3640 days") });
  const { code, json } = await runCli(["logs", "cleanup", "--dir", dir, "--keep", "30d", "--json"]);
  expect(code).toBe(0);
  expect(json()).toMatchObject({ removed: [{ file: "agent_activity", day: "2020-01-01" }] });
  expect(await readdir(dir)).not.toContain("2020-01-01");
  expect((await readdir(dir)).length).toBe(1);
});
