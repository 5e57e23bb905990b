// Everything public of `agent-outbox/testing`. What is not here may change in any release.

export type { TestAgentOptions } from "./agent-process.ts";
export type { Census } from "./assertions.ts";
export type { InstantInput } from "./clock.ts";
export type { Delivery } from "./deliver.ts";
export type { Faults, FaultTarget } from "./faults.ts";
export {
  createTestOutbox,
  type TestAgent,
  type TestClock,
  TestOutbox,
  type TestOutboxOptions,
} from "./harness.ts";
export type { SentFilter, SentMessage } from "./journal.ts";
export { NotSettled } from "./not-settled.ts";
