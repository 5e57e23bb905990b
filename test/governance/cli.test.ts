import { expect, it } from "vitest";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("the command line's topology and maintenance", (database) => {
  const cli = (...args: string[]) => runCli(["--json", ...args], { database: database.url() });

  it("sets, shows and checks who may send to whom", async () => {
    expect((await cli("topology", "show")).json()).toMatchObject({ mode: "mesh" });
    const set = await cli("topology", "set", "hub", "main");
    expect(set.json()).toMatchObject({ mode: "hub", hub: "main", on_direct: "reject" });
    const denied = await cli("topology", "check", "upload", "mapping");
    expect([denied.code, (denied.json() as { route: string }).route]).toEqual([1, "deny"]);
    expect((await cli("topology", "check", "upload", "main")).code).toBe(0);
    const refused = await cli(
      ...["send", "mapping", "--from", "upload", "--type", "T", "--content", "{}"],
    );
    expect([refused.code, refused.err]).toEqual([1, expect.stringContaining("TOPOLOGY_FORBIDDEN")]);
    const rules = JSON.stringify({ rules: [{ from: "a*", to: "b", effect: "deny" }] });
    expect((await cli("topology", "set", "json", rules)).code).toBe(0);
    expect((await cli("topology", "check", "a1", "b")).code).toBe(1);
    expect((await cli("topology", "set", "hub")).code).toBe(2);
    expect((await cli("topology", "set", "star")).code).toBe(2);
    expect((await cli("topology", "set", "mesh")).code).toBe(0);
    expect((await cli("topology", "check", "a1", "b")).code).toBe(0);
  });

  it("enters and ends a maintenance, and tells who knows", async () => {
    expect((await cli("system", "status")).json()).toMatchObject({ mode: "normal" });
    await cli("agents", "register", "writer");
    const entered = await cli("system", "maintenance", "--reason", "update", "--type", "WRITE");
    expect(entered.json()).toMatchObject({
      mode: "read_only",
      maintenance: { reason: "update", kinds: ["task", "command"], types: ["WRITE"] },
      waiting: ["writer"],
    });
    await cli("send", "writer", "--type", "COMMAND", "--content", "{}");
    const held = await cli("receive", "writer", "--types", "COMMAND");
    expect(held.out).toBe("");
    expect((await cli("system", "ready")).json()).toMatchObject({ mode: "normal" });
    const got = await cli("receive", "writer", "--types", "COMMAND");
    expect(got.json()).toMatchObject({ message_type: "COMMAND" });
    // Without a reason nothing is held back.
    expect((await cli("system", "maintenance")).code).not.toBe(0);
    expect((await cli("system", "status")).json()).toMatchObject({ mode: "normal" });
  });
});
