// Everything public of `agent-outbox/testing`. What is not here may change in any release.

export type { AroundTask, TestAgentOptions } from "./agent-process.ts";
export type { Census } from "./assertions.ts";
export type { InstantInput } from "./clock.ts";
export {
  agentContractTests,
  type ContractOptions,
  type ContractReport,
  type PathReport,
  runAgentContract,
  type TestFunction,
} from "./contract.ts";
export type { ContractPath } from "./contract-paths.ts";
export type { AgentContract, ContractTask } from "./contract-stage.ts";
export type { Delivery } from "./deliver.ts";
export type { Faults, FaultTarget } from "./faults.ts";
export { createTestOutbox, TestOutbox } from "./harness.ts";
export type { SentFilter, SentMessage } from "./journal.ts";
export { NotSettled } from "./not-settled.ts";
export type { TestAgent, TestClock, TestOutboxOptions } from "./options.ts";
