import { expect, it, onTestFinished } from "vitest";
import { openOutbox } from "../../lib/index.ts";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("the command line's locks", (database) => {
  const cli = (...args: string[]) => runCli(["--json", ...args], { database: database.url() });

  it("runs a command under a lock, and passes its exit code on", async () => {
    const outbox = await openOutbox({ database: database.url() });
    onTestFinished(() => outbox.close());
    const { locks } = outbox;
    // The command sees the token, and that the lock is held, by its exit code.
    const script = "process.exit(Number(process.env.OUTBOX_FENCING_TOKEN) === 1 ? 7 : 9)";
    const ran = await cli("locks", "run", "nightly", "--", process.execPath, "-e", script);
    expect(ran.code).toBe(7);
    expect(await locks.get("nightly")).toBeNull();
    const held = await locks.acquire("nightly", { ownerId: "somebody" });
    expect(held?.fencingToken).toBe(2);
    const taken = await cli("locks", "run", "nightly", "--", process.execPath, "-e", script);
    expect(taken.code).toBe(1);
    const listed = await cli("locks", "ls");
    expect(listed.json()).toMatchObject([{ resource_id: "nightly", owner_id: "somebody" }]);
    expect((await cli("locks", "show", "nightly")).json()).toMatchObject({ fencing_token: 2 });
    expect((await cli("locks", "release", "nightly")).code).toBe(2);
    expect((await cli("locks", "release", "nightly", "--force")).code).toBe(0);
    expect((await cli("locks", "show", "nightly")).code).toBe(4);
    const missing = await cli("locks", "run", "nightly", "--", "no-such-program-here");
    expect(missing.code).toBe(1);
    expect(await locks.get("nightly")).toBeNull();
  });
});
