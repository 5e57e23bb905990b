import { chmod, mkdir, mkdtemp, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { FileClaimCheckStore } from "../../lib/index.ts";
import { claimCheckKey, messageIdOfKey } from "../../lib/protocol/claim-check.ts";
import { failure } from "../support/queue.ts";

async function folder(): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), "outbox-claim-check-"));
  onTestFinished(() => rm(made, { recursive: true, force: true }));
  return made;
}

const OUTBOX = "0123456789abcdef";
const keyOf = (messageId: string, n = 0, outbox = OUTBOX) =>
  claimCheckKey(outbox, n.toString(16).padStart(32, "0"), messageId);

async function listed(store: FileClaimCheckStore, prefix = ""): Promise<string[]> {
  const keys = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys.sort();
}

const IDS = [
  "order-17",
  "../../etc/passwd",
  "..",
  "CON",
  "a/b\\c:d*?",
  "é한🙂",
  "🙂".repeat(64),
  "한".repeat(128),
];

it("keeps contents under any message id, inside its folder", async () => {
  const parent = await folder();
  const store = new FileClaimCheckStore(join(parent, "contents"));
  const keys = IDS.map((id, n) => keyOf(id, n));
  expect(keys.map(messageIdOfKey)).toEqual(IDS);
  expect(Math.max(...keys.map((key) => key.length))).toBeLessThanOrEqual(562);
  for (const [n, key] of keys.entries()) await store.put(key, Buffer.from(`content ${n}`));
  for (const [n, key] of keys.entries()) {
    expect(Buffer.from((await store.get(key)) ?? []).toString()).toBe(`content ${n}`);
  }
  expect(await listed(store)).toEqual([...keys].sort());
  expect(await readdir(parent)).toEqual(["contents"]);
  for (const key of keys) await store.delete(key);
  expect(await listed(store)).toEqual([]);
  for (const key of keys) expect(await store.get(key)).toBe(null);
});

it("refuses whatever is no key", async () => {
  const parent = await folder();
  const store = new FileClaimCheckStore(join(parent, "contents"));
  await writeFile(join(parent, "secret"), "secret");
  const good = keyOf("m");
  const bad = [
    "",
    "..",
    "../secret",
    "/etc/passwd",
    `${OUTBOX}/../../secret`,
    `${good}/../../../secret`,
    `../${good}`,
    `${good}\0`,
    `${good}\n`,
    good.toUpperCase(),
    good.replace("/", "\\"),
    `${OUTBOX}/${"0".repeat(32)}.`,
    // Decodes to the id, but is not how the id is written.
    `${OUTBOX}/${"0".repeat(32)}.bR`,
    `${good}${"A".repeat(700)}`,
    undefined,
    { toString: () => good },
  ];
  for (const key of bad as string[]) {
    for (const run of [
      () => store.put(key, Buffer.from("x")),
      () => store.get(key),
      () => store.delete(key),
    ]) {
      expect((await failure(run)).code, String(key)).toBe("VALIDATION_FAILED");
    }
  }
  expect(await readdir(parent)).toEqual(["secret"]);
  expect(() => new FileClaimCheckStore("")).toThrow("folder");
});

it("takes the same key twice, deletes twice, and lists one outbox only", async () => {
  const store = new FileClaimCheckStore(await folder());
  const key = keyOf("m");
  const other = keyOf("m", 0, "fedcba9876543210");
  await Promise.all([1, 2, 3, 4].map(() => store.put(key, Buffer.from("same"))));
  await store.put(other, Buffer.from("other"));
  expect(await listed(store, `${OUTBOX}/`)).toEqual([key]);
  await store.delete(key);
  await store.delete(key);
  expect(await store.get(key)).toBe(null);
  expect(await listed(store)).toEqual([other]);
});

it("leaves nothing half-written, and clears away what dead processes left", async () => {
  const dir = await folder();
  const incoming = join(dir, "incoming");
  await mkdir(incoming);
  await writeFile(join(incoming, "old"), "half");
  await utimes(join(incoming, "old"), 0, 0);
  await writeFile(join(incoming, "young"), "half");
  const store = new FileClaimCheckStore(dir);
  expect(await listed(store)).toEqual([]);
  await store.put(keyOf("m"), Buffer.alloc(1_000_000));
  expect(await readdir(incoming)).toEqual(["young"]);
});

it("tells a content that is not there from a folder that is away", async () => {
  const dir = await folder();
  const store = new FileClaimCheckStore(join(dir, "contents"));
  expect((await failure(() => store.get(keyOf("m")))).code).toBe("CONTENT_UNAVAILABLE");
  await store.put(keyOf("m"), Buffer.from("x"));
  expect(await store.get(keyOf("n", 1))).toBe(null);
});

it("says which folder has no room or no right", async () => {
  const dir = await folder();
  const blocked = join(dir, "file");
  await writeFile(blocked, "");
  const error = await failure(() =>
    new FileClaimCheckStore(blocked).put(keyOf("m"), Buffer.from("x")),
  );
  expect(error.code).toBe("CONTENT_UNAVAILABLE");
  expect(error.message).toContain("could not write");
  expect(error.details).toMatchObject({ folder: blocked });
  if (process.getuid?.() === 0) return;
  await chmod(dir, 0o500);
  const denied = await failure(() =>
    new FileClaimCheckStore(join(dir, "no")).put(keyOf("m"), Buffer.from("x")),
  );
  expect(denied.code).toBe("PERMISSION_DENIED");
  expect(denied.recoverySuggestion).toContain(dir);
});
