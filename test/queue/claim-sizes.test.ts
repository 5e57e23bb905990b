import { expect, it } from "vitest";
import { bytesOf, ClaimSizes } from "../../lib/queue/worker/claim-sizes.ts";
import type { ClaimedRow } from "../../lib/store/dialect.ts";

const MB = 1_000_000;

/** So many messages of one size. */
const of = (count: number, bytes: number) => Array.from({ length: count }, () => bytes);

/** Claims one after the other, each ended before the next; what each asked for. */
function claims(sizes: ClaimSizes, times: number, bytes: number, at = 0): number[] {
  return Array.from({ length: times }, () => {
    const asked = sizes.room(500, 0, at);
    sizes.saw(of(asked, bytes), at);
    return asked;
  });
}

it("begins with what fits whatever its size, and claims full batches of small messages soon", () => {
  expect(claims(new ClaimSizes(16 * MB, MB), 5, 200)).toEqual([16, 64, 256, 500, 500]);
  // Where a message may be larger than all of the room, one at first.
  expect(claims(new ClaimSizes(16 * MB, 100 * MB), 6, 200)).toEqual([1, 4, 16, 64, 256, 500]);
  // And at once where messages cannot be large.
  expect(claims(new ClaimSizes(16 * MB, 1_000), 2, 200)).toEqual([500, 500]);
});

it("claims of large messages what fits beside those that are held", () => {
  const sizes = new ClaimSizes(16 * MB, MB);
  sizes.saw(of(16, MB), 0);
  expect(sizes.room(500, 0, 0)).toBe(16);
  expect(sizes.room(500, 10 * MB, 0)).toBe(6);
  expect(sizes.room(3, 10 * MB, 0)).toBe(3);
  expect(sizes.room(500, 15.5 * MB, 0)).toBe(0);
  expect(sizes.room(500, 20 * MB, 0)).toBe(0);
  expect(sizes.room(0, 0, 0)).toBe(0);
});

it("lets little of it lie before handlers that are busy", () => {
  const sizes = new ClaimSizes(16 * MB, MB);
  expect(sizes.ahead).toBeGreaterThan(1_000_000);
  sizes.saw(of(100, 10_000), 0);
  expect(sizes.ahead).toBe(200);
  sizes.saw(of(16, 3 * MB), 0);
  expect(sizes.ahead).toBe(0);
});

it("always has room for one message, however large, when none is held", () => {
  const sizes = new ClaimSizes(1, MB);
  expect(claims(sizes, 3, 100 * MB)).toEqual([1, 1, 1]);
  expect(sizes.room(500, 1, 0)).toBe(0);
  expect(sizes.kept([100 * MB], 0)).toBe(1);
  expect(sizes.kept([100 * MB], 1)).toBe(0);
});

it("takes the next messages to be as large as the last ones, at once when these grow", () => {
  const sizes = new ClaimSizes(16 * MB, MB);
  claims(sizes, 10, 200);
  sizes.saw(of(500, MB), 0);
  expect(sizes.room(500, 0, 0)).toBe(16);
  // And soon when they shrink: a few claims later.
  expect(claims(sizes, 5, 200).at(-1)).toBe(500);
});

it("goes by the average from the first claim on", () => {
  const sizes = new ClaimSizes(16 * MB, MB);
  sizes.saw(of(8, MB), 0);
  sizes.saw([200], 0);
  expect(sizes.room(500, 0, 0)).toBe(16);
});

it("goes by the average where large messages lie among small ones", () => {
  const sizes = new ClaimSizes(16 * MB, MB);
  claims(sizes, 10, 200);
  // A lone large one weighs little once a claim of small ones has followed.
  sizes.saw([MB], 0);
  expect(sizes.room(500, 0, 0)).toBe(16);
  sizes.saw(of(16, 200), 0);
  expect(sizes.room(500, 0, 0)).toBe(500);
  // Every tenth: about 160 of them take 16 MB.
  for (let n = 0; n < 10; n++) sizes.saw([...of(90, 200), ...of(10, MB)], 0);
  expect(sizes.room(500, 0, 0)).toBeGreaterThan(150);
  expect(sizes.room(500, 0, 0)).toBeLessThan(165);
});

it("begins small again when it has seen no claim of many for a while", () => {
  const sizes = new ClaimSizes(16 * MB, MB);
  claims(sizes, 10, 200, 0);
  expect(sizes.room(500, 0, 9_000)).toBe(500);
  // Single ones meanwhile say nothing of what comes in a crowd.
  sizes.saw([200], 9_000);
  expect(sizes.room(500, 0, 9_000)).toBe(500);
  sizes.saw([200], 11_000);
  expect(sizes.room(500, 0, 11_000)).toBe(16);
  expect(sizes.room(500, 12 * MB, 11_000)).toBe(4);
});

it("keeps of messages that are larger than expected those that fit into one and a half of the room", () => {
  const sizes = new ClaimSizes(16 * MB, MB);
  expect(sizes.kept(of(500, 200), 0)).toBe(500);
  expect(sizes.kept(of(500, MB), 0)).toBe(24);
  expect(sizes.kept(of(500, MB), 14 * MB)).toBe(10);
  expect(sizes.kept([30 * MB, 200], 0)).toBe(1);
});

const row = (content: unknown, rest: Partial<ClaimedRow> = {}) =>
  ({ content, content_encoding: null, headers: null, progress: null, ...rest }) as ClaimedRow;

it("weighs a message by what it takes in memory", () => {
  const text = bytesOf(row({ text: "x".repeat(MB) }));
  expect(text).toBeGreaterThanOrEqual(MB);
  expect(text).toBeLessThan(1.001 * MB);
  expect(bytesOf(row({ text: "日".repeat(1_000) }))).toBeGreaterThan(3_000);
  expect(bytesOf(row([Array.from({ length: 1_000 }, (_, n) => ({ n }))]))).toBeGreaterThan(30_000);
  expect(bytesOf(row({ n: 1 }))).toBeLessThan(100);
  const beside = { a: "x".repeat(1_000) };
  expect(bytesOf(row({ n: 1 }, { headers: beside, progress: beside }))).toBeGreaterThan(2_000);
});

it("weighs packed contents by what they become", () => {
  const zipped = { gzip: "x".repeat(1_000), bytes: MB };
  expect(bytesOf(row(zipped, { content_encoding: "gzip" }))).toBe(MB);
  const key = `${"0".repeat(16)}/${"0".repeat(32)}.${Buffer.from("m").toString("base64url")}`;
  const ref = { ref: key, bytes: 5 * MB, sha256: "0".repeat(64) };
  expect(bytesOf(row(ref, { content_encoding: "ref" }))).toBe(5 * MB);
  // What is not what it should be is what is there; reading it fails later, for that message alone.
  for (const bytes of [-1, Number.NaN, "1", undefined, 10 ** 15]) {
    expect(bytesOf(row({ gzip: "xx", bytes }, { content_encoding: "gzip" }))).toBeLessThan(1_000);
  }
  expect(bytesOf(row("none", { content_encoding: "unheard" }))).toBe(0);
});

it("weighs a content however deep it is", () => {
  const depth = 200_000;
  const content: unknown = JSON.parse(`${"[".repeat(depth)}${"]".repeat(depth)}`);
  expect(bytesOf(row(content))).toBeGreaterThan(depth * 24);
});
