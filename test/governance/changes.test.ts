import { expect, it, onTestFinished } from "vitest";
import { openOutbox } from "../../lib/index.ts";
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
});
