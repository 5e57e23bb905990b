import { expect, it, onTestFinished } from "vitest";
import { openOutbox } from "../../lib/index.ts";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";

const wanted = {
  requestingAgent: "content",
  affectedModules: ["drive", "content"],
  changeType: "api_update",
  description: "a new field",
  changes: { new_fields: ["duration"] },
  testingPlan: { unitTests: ["test_1"] },
  module: "content",
} as const;
const request = {
  ...wanted,
  affectedModules: [...wanted.affectedModules],
  testingPlan: { unitTests: ["test_1"] },
};

eachDatabase("a change request", (database) => {
  const open = async () => {
    const outbox = await openOutbox({ database: database.url() });
    onTestFinished(() => outbox.close());
    return outbox;
  };

  it("goes from the request to its completion, each step with its messages", async () => {
    const outbox = await open();
    const { changes } = outbox;
    const id = await changes.request(request);
    expect(id).toMatch(/^CR-\d{14}-content(-\d+)?$/);
    await changes.review(id, { by: "integration" });
    await changes.approve(id, { module: "drive", by: "integration" });
    expect((await changes.get(id))?.state).toBe("in_review");
    await changes.approve(id, { module: "content", by: "integration", comment: "fine" });
    expect((await changes.get(id))?.state).toBe("approved");
    await changes.implement(id, { by: "drive" });
    await changes.test(id, { by: "drive" });
    await changes.report(id, { module: "drive", by: "drive", passed: 3, failed: 0 });
    const untested = await failure(() => changes.complete(id, { by: "integration" }));
    expect(untested).toMatchObject({ code: "CHANGE_UNTESTED", details: { missing: ["content"] } });
    expect((await changes.get(id))?.state).toBe("testing");
    await changes.report(id, { module: "content", by: "content", passed: 1, failed: 0 });
    await changes.complete(id, { by: "integration" });
    expect((await changes.history(id)).map(({ to, by }) => `${to} ${by}`)).toEqual([
      ...["submitted content", "in_review integration", "approved integration"],
      ...["implementing drive", "testing drive", "completed integration"],
    ]);
    const told = await outbox.queue.getMessages("content", { limit: 20 });
    expect(told.map(({ content }) => (content as { state: string }).state)).toEqual([
      ...["submitted", "in_review", "approved", "implementing", "testing", "completed"],
    ]);
  });

  it("gives every request of one second an id of its own", async () => {
    const { changes } = await open();
    const ids = await Promise.all(Array.from({ length: 12 }, () => changes.request(request)));
    expect(new Set(ids).size).toBe(12);
  });

  it("lets one of two that decide for a module win", async () => {
    const [one, two] = [await open(), await open()];
    const id = await one.changes.request(request);
    const both = await Promise.allSettled([
      one.changes.approve(id, { module: "drive", by: "a" }),
      two.changes.reject(id, { module: "drive", by: "b" }),
    ]);
    expect(both.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    const lost = both.find((end) => end.status === "rejected");
    expect(lost?.reason).toMatchObject({ code: "CHANGE_STATE" });
  });

  it("is approved once, when the last two decide at the same time", async () => {
    const [one, two] = [await open(), await open()];
    const id = await one.changes.request(request);
    await Promise.all([
      one.changes.approve(id, { module: "drive", by: "a" }),
      two.changes.approve(id, { module: "content", by: "b" }),
    ]);
    expect((await one.changes.get(id))?.state).toBe("approved");
    expect((await one.changes.history(id)).filter(({ to }) => to === "approved")).toHaveLength(1);
  });

  it("forgets decisions once it is amended, and refuses moves out of turn", async () => {
    const { changes } = await open();
    const id = await changes.request(request);
    await changes.approve(id, { module: "drive", by: "a" });
    await changes.amend(id, { by: "content", changes: { new_fields: ["bitrate"] } });
    expect(await changes.get(id)).toMatchObject({ state: "submitted", revision: 2, approvals: [] });
    expect((await failure(() => changes.implement(id, { by: "a" }))).code).toBe("CHANGE_STATE");
    expect((await failure(() => changes.submit("none", { by: "a" }))).code).toBe("UNKNOWN_CHANGE");
  });

  it("refuses every move that is out of turn, in a caller's transaction too", async () => {
    const outbox = await open();
    const { changes } = outbox;
    const id = await changes.request({ ...request, draft: true });
    const moves = ["review", "implement", "test", "complete"] as const;
    for (const move of moves) {
      expect((await failure(() => changes[move](id, { by: "a" }))).code).toBe("CHANGE_STATE");
    }
    await changes.submit(id, { by: "a" });
    expect((await failure(() => changes.submit(id, { by: "a" }))).code).toBe("CHANGE_STATE");
    for (const module of request.affectedModules) await changes.approve(id, { module, by: "a" });
    await changes.implement(id, { by: "a" });
    await changes.test(id, { by: "a" });
    // Refused for want of reports, and the caller goes on: it stays as it was.
    await outbox.knex.transaction(async (tx) => {
      const refused = await failure(() => changes.complete(id, { by: "a", tx }));
      expect(refused.code).toBe("CHANGE_UNTESTED");
    });
    expect((await changes.get(id))?.state).toBe("testing");
    expect((await failure(() => changes.amend(id, { by: "a", changes: {} }))).code).toBe(
      "CHANGE_STATE",
    );
    await changes.complete(id, { by: "a", force: "tested by hand" });
    expect((await changes.history(id)).at(-1)).toMatchObject({
      to: "completed",
      forced: true,
      note: "tested by hand",
    });
    expect((await failure(() => changes.withdraw(id, { by: "a" }))).code).toBe("CHANGE_STATE");
  });

  it("takes reports of affected modules only, and forgets them when it is implemented anew", async () => {
    const { changes } = await open();
    const id = await changes.request(request);
    for (const module of request.affectedModules) await changes.approve(id, { module, by: "a" });
    await changes.implement(id, { by: "a" });
    const report = { by: "a", passed: 1, failed: 0 };
    const typo = await failure(() => changes.report(id, { ...report, module: "drvie" }));
    expect(typo.code).toBe("VALIDATION_FAILED");
    await changes.test(id, { by: "a" });
    for (const module of request.affectedModules) await changes.report(id, { ...report, module });
    await changes.report(id, { ...report, module: "drive", failed: 1 });
    expect((await failure(() => changes.complete(id, { by: "a" }))).details).toMatchObject({
      missing: ["drive"],
    });
    await changes.implement(id, { by: "a", note: "mended" });
    await changes.test(id, { by: "a" });
    expect((await failure(() => changes.complete(id, { by: "a" }))).details).toMatchObject({
      missing: ["content", "drive"],
    });
  });

  it("lets one of two movers win, with one entry in its history", async () => {
    const [one, two] = [await open(), await open()];
    for (let round = 0; round < 5; round++) {
      const id = await one.changes.request(request);
      const both = await Promise.allSettled([
        one.changes.review(id, { by: "a" }),
        two.changes.withdraw(id, { by: "b" }),
        two.changes.review(id, { by: "c" }),
      ]);
      const reviews = [both[0], both[2]].filter(({ status }) => status === "fulfilled");
      expect(reviews.length).toBeLessThanOrEqual(1);
      const history = (await one.changes.history(id)).map(({ to }) => to);
      expect(history.filter((to) => to === "in_review").length).toBe(reviews.length);
      expect(history.filter((to) => to === "withdrawn").length).toBeLessThanOrEqual(1);
    }
  });

  it("asks who speaks for a module, and tells them of every move", async () => {
    const outbox = await open();
    const { changes, agents, queue } = outbox;
    await agents.registerAgent({ agentId: "pay-agent", metadata: { module: "pay" } });
    await agents.registerAgent({ agentId: "ship-agent", card: { name: "Ship", domain: "ship" } });
    const id = await changes.request({
      ...{ requestingAgent: "pay-agent", affectedModules: ["ship", "stock"] },
      ...{ changeType: "schema_change", description: "a column" },
    });
    // Named after the module that the requester speaks for.
    expect(id).toMatch(/-pay(-\d+)?$/);
    const [asked] = await queue.getMessages("ship-agent");
    expect(asked).toMatchObject({
      messageType: "CHANGE_REQUEST_UPDATED",
      content: { request_id: id, state: "submitted" },
      correlationId: id,
    });
    const refused = await failure(() => changes.approve(id, { module: "ship", by: "anybody" }));
    expect(refused).toMatchObject({
      code: "CHANGE_NOT_OWNER",
      details: { module: "ship", speakers: ["ship-agent"] },
    });
    expect((await changes.get(id))?.state).toBe("submitted");
    await changes.approve(id, { module: "ship", by: "ship-agent" });
    // Nobody speaks for the other one: anybody decides, and who did is on record.
    await changes.reject(id, { module: "stock", by: "anybody", comment: "no" });
    expect((await changes.get(id))?.approvals.map(({ module, by }) => [module, by])).toEqual([
      ["ship", "ship-agent"],
      ["stock", "anybody"],
    ]);
    // What was rejected may be amended, and is decided anew.
    await changes.amend(id, { by: "pay-agent", changes: { column: "nullable" } });
    expect(await changes.get(id)).toMatchObject({ state: "submitted", revision: 2, approvals: [] });
  });

  it("exists only if the caller's transaction commits", async () => {
    const outbox = await open();
    const tx = await outbox.knex.transaction();
    const id = await outbox.changes.request(request, { tx });
    await tx.rollback();
    expect(await outbox.changes.get(id)).toBeNull();
  });

  it("is handled from the command line", async () => {
    const cli = (...args: string[]) => runCli(["--json", ...args], { database: database.url() });
    const made = await cli("changes", "request", JSON.stringify({ ...request, draft: true }));
    const { request_id: id } = made.json<{ request_id: string }>();
    for (const args of [
      ["submit", id],
      ["approve", id, "drive", "--by", "a"],
      ["approve", id, "content", "--by", "b", "--comment", "fine"],
      ["implement", id],
      ["test", id],
      ["report", id, "drive", "--passed", "3"],
      ["report", id, "content", "--passed", "1", "--url", "https://ci.example/1"],
    ]) {
      expect((await cli("changes", ...args)).code, args.join(" ")).toBe(0);
    }
    expect((await cli("changes", "review", id)).code).toBe(1);
    expect((await cli("changes", "complete", id)).json()).toMatchObject({ state: "completed" });
    const shown = (await cli("changes", "show", id)).json();
    expect(shown).toMatchObject({ state: "completed", approvals: [{}, {}], reports: [{}, {}] });
    const listed = (await cli("changes", "ls", "--state", "completed")).json<unknown[]>();
    expect(listed).toEqual(expect.arrayContaining([expect.objectContaining({ request_id: id })]));
    expect((await cli("changes", "show", "none")).code).toBe(4);
  });
});
