// Everything public. What is not here may change in any release.

export { AgentRegistry, type HeartbeatResult } from "./agent-registry.ts";
export { FileClaimCheckStore } from "./claim-check/file-store.ts";
export { configFromEnv, type EnvironmentConfig, maskedConfig } from "./config.ts";
export { AgentRunner, type AgentRunnerOptions } from "./coordination/agent-runner.ts";
export type {
  Auctions,
  BidHook,
  BidOptions,
  BidOutcome,
} from "./coordination/auctions/auctions.ts";
export type {
  ChangeActor,
  ChangeDecision,
  ChangeRequests,
} from "./coordination/changes/changes.ts";
export type {
  Gate,
  GateAnswer,
  GateContext,
  GateFailure,
  GateFinding,
  GateSeverity,
  GateSubject,
  GatesInput,
} from "./coordination/handoffs/gates.ts";
export type {
  AcceptOptions,
  GiveBackOptions,
  Handoffs,
} from "./coordination/handoffs/handoffs.ts";
export type {
  HandoffDecision,
  HandoffHandler,
  HandoffListenOptions,
} from "./coordination/handoffs/listen.ts";
export type { InitiatedHandoff } from "./coordination/handoffs/offering.ts";
export {
  agentDocCurrent,
  auditExists,
  errorsAreStructured,
  type GateOptions,
  requiredContext,
  type SlaOptions,
  schemaGate,
  stagesComplete,
  withinSla,
} from "./coordination/handoffs/shipped-gates.ts";
export {
  createTransferTool,
  type TransferCall,
  type TransferResult,
  type TransferTool,
  type TransferToolOptions,
} from "./coordination/handoffs/transfer-tool.ts";
export type {
  AssignedTask,
  BroadcastOptions,
  SupervisorOptions,
  WaitOptions,
} from "./coordination/options.ts";
export { SupervisorCoordinator } from "./coordination/supervisor.ts";
export type { SystemModes, SystemStatus } from "./coordination/system/system-modes.ts";
export type {
  AssignedWork,
  InputQuestion,
  SubtaskInput,
  TaskContext,
  TaskHandler,
  TimedTaskHandler,
} from "./coordination/tasks/run-context.ts";
export type { TaskTree } from "./coordination/tasks/subtasks.ts";
export type { AnswerOptions, Tasks } from "./coordination/tasks/tasks.ts";
export type { TaskExplanation, TaskReason } from "./coordination/why/words.ts";
export type { StepExplanation, WorkflowExplanation } from "./coordination/workflows/why.ts";
export type {
  StartedWorkflow,
  WaitWorkflowOptions,
  Workflows,
} from "./coordination/workflows/workflows.ts";
export { type Diagnosis, type DiagnosisCheck, doctor } from "./doctor.ts";
export * from "./errors.ts";
export type { Health } from "./health.ts";
export {
  disableFileLogging,
  enableFileLogging,
  FileLogger,
  type FileLoggingOptions,
  type FileLogStats,
  getFileLogger,
} from "./observability/file-logger.ts";
export { type LogFileName, listLogFiles } from "./observability/log-files.ts";
export { type LogLine, type TailOptions, tailLogs } from "./observability/tail-logs.ts";
export { type OpenOptions, Outbox, openOutbox } from "./outbox.ts";
export { AgentMessage } from "./protocol/agent-message.ts";
export {
  type AgentInfo,
  AgentRole,
  type AgentState,
  type AgentStatus,
  type BestOptions,
  type DrainOptions,
  type FindOptions,
  type HeartbeatOptions,
  type HistoryOptions,
  type ListAgentsOptions,
  type MatchingStrategy,
  type RegisterAgent,
  type RegistryStats,
} from "./protocol/agents.ts";
export type { AuctionTerms, Bid, BidInput, BidState, CallForBids } from "./protocol/auctions.ts";
export type {
  PreferenceInput,
  RequirementInput,
} from "./protocol/capabilities.ts";
export type {
  AgentCard,
  AgentCardInput,
  AgentHistoryEntry,
  AgentHistoryEvent,
  CardDocument,
} from "./protocol/cards.ts";
export type {
  ChangeApproval,
  ChangeMove,
  ChangeReport,
  ChangeReportInput,
  ChangeRequest,
  ChangeRequestInput,
  ChangeState,
  ListChangesOptions,
} from "./protocol/changes.ts";
export type {
  ClaimCheckAbout,
  ClaimCheckEntry,
  ClaimCheckStore,
  ContentRef,
} from "./protocol/claim-check.ts";
export type * from "./protocol/dead-letters.ts";
export { DEAD_LETTER_REASONS } from "./protocol/dead-letters.ts";
export type { CapabilityDetail, CapabilityInput } from "./protocol/declarations.ts";
export type {
  Entity,
  EntityChange,
  StateHistoryOptions,
  UpdateStateOptions,
} from "./protocol/entities.ts";
export type {
  FollowOptions,
  LoadOptions,
  NewEvent,
  ProjectOptions,
  Publish,
  ReadAllOptions,
  StoredEvent,
} from "./protocol/event-store.ts";
export type * from "./protocol/events.ts";
export { Observers } from "./protocol/events.ts";
export type { BatcherOptions, FlowInput } from "./protocol/flow.ts";
export type { LimitInput, MailboxSettingsInput } from "./protocol/gates.ts";
export { handoffMarkdown } from "./protocol/handoff-markdown.ts";
export {
  type GateWarning,
  HANDOFF_STATES,
  type Handoff,
  type HandoffContext,
  type HandoffInput,
  type HandoffState,
  type ListHandoffsOptions,
  type ReceivedHandoff,
  type TaskHandoffInput,
} from "./protocol/handoffs.ts";
export type { AcquireOptions, ListLocksOptions, Lock } from "./protocol/locks.ts";
export type { Content, Headers, MessageInput } from "./protocol/message-input.ts";
export type * from "./protocol/options.ts";
export * from "./protocol/payloads.ts";
export {
  DEFAULT_RETRY_POLICY,
  RETRY_POLICIES,
  type RetryChoice,
  type RetryChoiceInput,
  type RetryPoliciesInput,
  type RetryPolicy,
  type RetryPolicyInput,
  type RetryPolicyName,
  type RetryRule,
} from "./protocol/retry.ts";
export type {
  CatchUp,
  ScheduledMessage,
  ScheduleOptions,
  ScheduleTrigger,
} from "./protocol/schedules.ts";
export {
  type A2aTaskState,
  type McpTaskStatus,
  TASK_STATES,
  type TaskState,
  taskStateOf,
  toA2aState,
  toMcpStatus,
} from "./protocol/states.ts";
export type { Maintenance, MaintenanceInput, ReadyInput } from "./protocol/system.ts";
export type {
  AnswerResult,
  InputRequest,
  InputRequestInput,
  ListInputsOptions,
} from "./protocol/task-inputs.ts";
export type {
  CoordinationStats,
  FinishedTask,
  ListTasksOptions,
  PerformanceMetrics,
  Task,
  TaskInput,
} from "./protocol/tasks.ts";
export {
  channelTopology,
  hubTopology,
  type Route,
  type TopologyInput,
} from "./protocol/topology.ts";
export * from "./protocol/types.ts";
export type { StopOptions } from "./protocol/work-options.ts";
export type { Condition } from "./protocol/workflow-paths.ts";
export { WORKFLOW_STATES, type WorkflowState } from "./protocol/workflow-states.ts";
export {
  type CancelWorkflowOptions,
  type ListWorkflowsOptions,
  type RetryWorkflowOptions,
  type SignalOptions,
  STEP_STATES,
  type StepProgress,
  type StepSeverity,
  type StepState,
  WORKFLOW_FAILURES,
  type Workflow,
  type WorkflowFailure,
  type WorkflowInput,
  type WorkflowMode,
  type WorkflowStep,
  type WorkflowStepInput,
  type WorkflowSummary,
} from "./protocol/workflows.ts";
export * from "./queue/claimed.ts";
export type { SweepReport } from "./queue/content/payloads.ts";
export type {
  DeadLetterGroup,
  DeadLetterGroups,
  DeadLetters,
  DiscardResult,
  RedriveResult,
} from "./queue/dead-letters/dead-letters.ts";
export type { Batcher } from "./queue/flow/batcher.ts";
export { MessageQueueManager, type SendOptions } from "./queue/manager.ts";
export { relay, relayTargets } from "./queue/routing/relay.ts";
export type { Topology } from "./queue/routing/topology.ts";
export type { Schedule, ScheduleOutcome, Schedules } from "./queue/schedules/schedules.ts";
export type { DeadLetter, MessageState, StoredMessage } from "./queue/stored.ts";
export type { Consumer } from "./queue/upkeep/presence.ts";
export type { QueueStats } from "./queue/upkeep/stats.ts";
export type {
  UpkeepCounts,
  UpkeepFailure,
  UpkeepLag,
  UpkeepReport,
  UpkeepStep,
} from "./queue/upkeep/upkeep.ts";
export type { Explanation, WhyState } from "./queue/why/why.ts";
export type {
  WorkActivity,
  WorkContext,
  WorkErrorContext,
  WorkErrorListener,
  Worker,
  WorkerStats,
  WorkHandler,
  WorkOptions,
} from "./queue/worker/worker.ts";
export type { EntityStates, StateOutcome, UpdateOptions } from "./state/entity-states.ts";
export type {
  Appended,
  AppendOptions,
  EventStore,
  FollowHandler,
  Projected,
} from "./state/event-store.ts";
export type { HeldOptions, LockContext, Locks } from "./state/locks.ts";
export { connect, type DatabaseInput, knexConfig, redactUrl } from "./store/connect.ts";
export type { DialectName } from "./store/dialect.ts";
export {
  type MigrationStatus,
  migrate,
  migrateDown,
  migrationSql,
  migrationStatus,
  schemaSql,
} from "./store/migrate.ts";
export type { Sent } from "./store/sending.ts";
