import { onTestFinished } from "vitest";
import {
  createTestOutbox,
  type TestOutbox,
  type TestOutboxOptions,
} from "../../lib/testing/index.ts";

/** A test's outbox, closed when the test ends. */
export async function testOutbox(options?: TestOutboxOptions): Promise<TestOutbox> {
  const harness = await createTestOutbox(options);
  onTestFinished(() => harness.close());
  return harness;
}
