import { expect, it, onTestFinished } from "vitest";
import { type Outbox, openOutbox } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";

eachDatabase("the state of entities", (database) => {
  async function opened(): Promise<Outbox> {
    const outbox = await openOutbox({ database: database.url() });
    onTestFinished(() => outbox.close());
    return outbox;
  }

  it("is merged, and told with what was before in one commit", async () => {
    const { state, queue } = await opened();
    await state.update("incident", "1", { status: "OPEN", where: { zone: "a", rack: 1 } });
    const updated = await state.update(
      "incident",
      "1",
      { status: "INVESTIGATING", assigned_to: "analysis-01", where: { rack: null } },
      {
        expectPrevious: { status: "OPEN", assigned_to: null },
        by: "detector",
        notify: ["watcher", "watcher"],
      },
    );
    expect(updated).toMatchObject({ outcome: "updated", entity: { version: 2 } });
    expect((await state.get("incident", "1"))?.state).toEqual({
      status: "INVESTIGATING",
      assigned_to: "analysis-01",
      where: { zone: "a" },
    });
    const messages = await queue.getMessages("watcher");
    expect(messages).toHaveLength(1);
    expect(messages[0]).toMatchObject({
      messageType: "STATE_UPDATE",
      fromAgent: "detector",
      content: {
        entity_type: "incident",
        entity_id: "1",
        updates: { status: "INVESTIGATING", assigned_to: "analysis-01" },
        previous_state: { status: "OPEN", assigned_to: null, where: { zone: "a", rack: 1 } },
      },
    });
  });

  it("stays as it is where it is not as expected", async () => {
    const { state, queue } = await opened();
    await state.update("doc", "1", { a: { x: 1, y: 2 }, n: 1 });
    const conflict = await state.update(
      "doc",
      "1",
      { n: 2 },
      {
        expectPrevious: { n: 5 },
        notify: ["nobody"],
      },
    );
    expect(conflict).toMatchObject({
      outcome: "conflict",
      entity: { version: 1, state: { n: 1 } },
    });
    expect(await queue.getMessages("nobody")).toEqual([]);
    const whole = await state.update(
      "doc",
      "1",
      { n: 2 },
      { expectPrevious: { a: { y: 2, x: 1 } } },
    );
    expect(whole.outcome).toBe("updated");
    expect((await state.update("doc", "1", { n: 3 }, { expectVersion: 1 })).outcome).toBe(
      "conflict",
    );
    expect((await state.update("doc", "new", { n: 3 }, { expectVersion: 0 })).outcome).toBe(
      "updated",
    );
    expect((await state.update("doc", "new", { n: 4 }, { expectVersion: 0 })).outcome).toBe(
      "conflict",
    );
    expect(await state.get("doc", "other")).toBeNull();
    const nothing = await failure(() => state.update("doc", "1", {}));
    expect(nothing.code).toBe("VALIDATION_FAILED");
    const large = { text: "x".repeat(600_000) };
    await state.update("doc", "large", { one: large });
    const larger = await failure(() => state.update("doc", "large", { two: large }));
    expect(larger.code).toBe("PAYLOAD_TOO_LARGE");
  });

  it("is changed by one of many who expect the same", async () => {
    const { state } = await opened();
    await state.update("counter", "1", { n: 0 });
    let tries = 0;
    await Promise.all(
      Array.from({ length: 4 }, async () => {
        for (let done = 0; done < 5; tries++) {
          const now = await state.get("counter", "1");
          const n = now?.state.n as number;
          const { outcome } = await state.update(
            "counter",
            "1",
            { n: n + 1 },
            {
              expectPrevious: { n },
            },
          );
          if (outcome === "updated") done++;
        }
      }),
    );
    expect(tries).toBeGreaterThanOrEqual(20);
    expect(await state.get("counter", "1")).toMatchObject({ version: 21, state: { n: 20 } });
    const history = await state.history("counter", "1", { after: 1 });
    expect(history.map(({ previousState }) => previousState.n)).toEqual([...Array(20).keys()]);
  });

  it("can be taken away, and its version goes on", async () => {
    const { state, knex } = await opened();
    expect((await state.delete("gone", "1")).outcome).toBe("conflict");
    await state.update("gone", "1", { n: 1 }, { history: false });
    expect((await state.delete("gone", "1", { expectVersion: 7 })).outcome).toBe("conflict");
    expect(await state.delete("gone", "1", { by: "me" })).toMatchObject({ outcome: "deleted" });
    expect(await state.get("gone", "1")).toBeNull();
    await knex.transaction(async (tx) => {
      const back = await state.update("gone", "1", { n: 2 }, { tx, expectVersion: 0 });
      expect(back).toMatchObject({ outcome: "updated", entity: { version: 3, state: { n: 2 } } });
      expect(await state.get("gone", "1", { tx })).toMatchObject({ previousState: null });
    });
    expect(await state.history("gone", "1")).toMatchObject([
      { version: 2, updates: null, previousState: { n: 1 }, updatedBy: "me" },
      { version: 3, updates: { n: 2 }, previousState: { n: null } },
    ]);
  });
});
