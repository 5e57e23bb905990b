/** What becomes of the lines of a batch of which only a part was written. */
import { expect, test, vi } from "vitest";
import { type AppendResult, append } from "../../lib/observability/append.ts";
import { LineBuffer } from "../../lib/observability/line-buffer.ts";

vi.mock("../../lib/observability/append.ts");

test.each([
  ["within the second line", 8, "line2\nline3\n"],
  ["just after the first", 6, "line2\nline3\n"],
  ["just before the newline of the second", 11, "line3\n"],
  ["nothing", 0, "line1\nline2\nline3\n"],
])("the next try begins with the first line that is not there whole: %s", async (_, n, rest) => {
  const batches: string[] = [];
  const results: AppendResult[] = [
    { written: n, error: new Error("full") },
    { written: rest.length },
  ];
  vi.mocked(append).mockImplementation((_path, batch) => {
    batches.push(batch.toString());
    return Promise.resolve(results[batches.length - 1] ?? { written: 0 });
  });
  const buffer = new LineBuffer({
    flushMs: 10_000,
    maxBufferBytes: 1_000,
    fsync: false,
    onWarning: () => {},
  });
  for (const line of ["line1\n", "line2\n", "line3\n"]) buffer.add("x", line, line.length);
  await buffer.flush();
  await buffer.flush();
  expect(batches).toEqual(["line1\nline2\nline3\n", rest]);
  expect(buffer.counters).toMatchObject({ lines_written: 3, bytes_written: 18, lines_waiting: 0 });
  await buffer.close();
});
