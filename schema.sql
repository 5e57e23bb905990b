-- The tables of agent-outbox for PostgreSQL, generated from migrations/ (npm run schema). Do not edit.

-- 001_messages
create table "outbox_messages" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "message_id" varchar(128) COLLATE "C" not null, "from_agent" varchar(128) COLLATE "C" not null, "to_agent" varchar(128) COLLATE "C" not null, "message_type" varchar(128) COLLATE "C" not null, "original_type" varchar(128) COLLATE "C", "kind" varchar(16) COLLATE "C" not null, "content" jsonb not null, "headers" jsonb, "correlation_id" varchar(128) COLLATE "C", "causation_id" varchar(128) COLLATE "C", "reply_to" varchar(128) COLLATE "C", "context_id" varchar(128) COLLATE "C", "task_id" varchar(128) COLLATE "C", "subject" text, "ordering_key" varchar(128) COLLATE "C", "dedupe_key" varchar(255) COLLATE "C", "created_at" bigint not null, "expires_at" bigint, "priority" smallint not null, "state" smallint not null, "visible_at" bigint not null, "due_at" bigint, "worker_id" varchar(128) COLLATE "C", "receipt" bigint not null, "attempt" integer not null, "max_attempts" integer not null, "progress" jsonb, "last_error" jsonb, "first_failed_at" bigint, "redriven" integer not null);
CREATE INDEX outbox_messages_ready ON outbox_messages (to_agent, priority DESC, seq) WHERE state = 0;
CREATE INDEX outbox_messages_due ON outbox_messages (to_agent, due_at) WHERE state = 1;
CREATE INDEX outbox_messages_expiry ON outbox_messages (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX outbox_messages_id ON outbox_messages (message_id);
create table "outbox_archive" ("seq" bigint not null, "message_id" varchar(128) COLLATE "C" not null, "from_agent" varchar(128) COLLATE "C" not null, "to_agent" varchar(128) COLLATE "C" not null, "message_type" varchar(128) COLLATE "C" not null, "original_type" varchar(128) COLLATE "C", "kind" varchar(16) COLLATE "C" not null, "content" jsonb not null, "headers" jsonb, "correlation_id" varchar(128) COLLATE "C", "causation_id" varchar(128) COLLATE "C", "reply_to" varchar(128) COLLATE "C", "context_id" varchar(128) COLLATE "C", "task_id" varchar(128) COLLATE "C", "subject" text, "ordering_key" varchar(128) COLLATE "C", "dedupe_key" varchar(255) COLLATE "C", "created_at" bigint not null, "expires_at" bigint, "priority" smallint not null, "outcome" varchar(16) COLLATE "C" not null, "worker_id" varchar(128) COLLATE "C", "attempt" integer not null, "finished_at" bigint not null, constraint "outbox_archive_pk" primary key ("seq"));
CREATE INDEX outbox_archive_id ON outbox_archive (message_id);
CREATE INDEX outbox_archive_finished ON outbox_archive (finished_at);
create table "outbox_dead_letters" ("seq" bigint not null, "message_id" varchar(128) COLLATE "C" not null, "from_agent" varchar(128) COLLATE "C" not null, "to_agent" varchar(128) COLLATE "C" not null, "message_type" varchar(128) COLLATE "C" not null, "original_type" varchar(128) COLLATE "C", "kind" varchar(16) COLLATE "C" not null, "content" jsonb not null, "headers" jsonb, "correlation_id" varchar(128) COLLATE "C", "causation_id" varchar(128) COLLATE "C", "reply_to" varchar(128) COLLATE "C", "context_id" varchar(128) COLLATE "C", "task_id" varchar(128) COLLATE "C", "subject" text, "ordering_key" varchar(128) COLLATE "C", "dedupe_key" varchar(255) COLLATE "C", "created_at" bigint not null, "expires_at" bigint, "priority" smallint not null, "reason" varchar(32) COLLATE "C" not null, "last_error" jsonb, "fingerprint" varchar(64) COLLATE "C" not null, "worker_id" varchar(128) COLLATE "C", "receipt" bigint not null, "attempt" integer not null, "max_attempts" integer not null, "first_failed_at" bigint, "failed_at" bigint not null, "redriven" integer not null, constraint "outbox_dead_letters_pk" primary key ("seq"));
CREATE INDEX outbox_dead_letters_id ON outbox_dead_letters (message_id);
CREATE INDEX outbox_dead_letters_mailbox ON outbox_dead_letters (to_agent, seq);
CREATE INDEX outbox_dead_letters_failed ON outbox_dead_letters (failed_at);
create table "outbox_dedupe" ("dedupe_key" varchar(400) COLLATE "C" not null, "message_id" varchar(128) COLLATE "C" not null, "expires_at" bigint not null, constraint "outbox_dedupe_pk" primary key ("dedupe_key"));
CREATE INDEX outbox_dedupe_expiry ON outbox_dedupe (expires_at);
create table "outbox_mailboxes" ("agent_id" varchar(128) COLLATE "C" not null, "paused_at" bigint, "pause_reason" text, constraint "outbox_mailboxes_pk" primary key ("agent_id"));
ALTER TABLE outbox_messages SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000, toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 2000);
CREATE VIEW outbox_messages_readable AS SELECT seq, message_id, from_agent, to_agent, message_type, priority, CASE state WHEN 0 THEN CASE WHEN worker_id IS NULL THEN 'ready' ELSE 'leased' END WHEN 1 THEN 'scheduled' ELSE 'blocked' END AS state, attempt, max_attempts, worker_id, to_timestamp(created_at / 1000.0) AS created_at, to_timestamp(visible_at / 1000.0) AS visible_at, to_timestamp(expires_at / 1000.0) AS expires_at, content FROM outbox_messages;
CREATE VIEW outbox_dead_letters_readable AS SELECT seq, message_id, from_agent, to_agent, message_type, reason, attempt, to_timestamp(created_at / 1000.0) AS created_at, to_timestamp(first_failed_at / 1000.0) AS first_failed_at, to_timestamp(failed_at / 1000.0) AS failed_at, last_error, content FROM outbox_dead_letters;

-- 002_agents
create table "outbox_agents" ("agent_id" varchar(128) COLLATE "C" not null, "role" varchar(64) COLLATE "C" not null, "status" varchar(16) COLLATE "C" not null, "max_concurrent_tasks" integer not null, "metadata" jsonb, "metrics" jsonb, "registered_at" bigint not null, "heartbeat_at" bigint not null, "stale_after_ms" integer not null, "lost_at" bigint, "last_assigned_at" bigint not null, constraint "outbox_agents_pk" primary key ("agent_id"));
CREATE INDEX outbox_agents_present ON outbox_agents (agent_id) WHERE lost_at IS NULL;
create table "outbox_agent_capabilities" ("capability" varchar(128) COLLATE "C" not null, "agent_id" varchar(128) COLLATE "C" not null, constraint "outbox_agent_capabilities_pk" primary key ("capability", "agent_id"));
CREATE INDEX outbox_agent_capabilities_agent ON outbox_agent_capabilities (agent_id);
ALTER TABLE outbox_agents SET (fillfactor = 60);

-- 003_tasks
create table "outbox_tasks" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "task_id" varchar(128) COLLATE "C" not null, "task_type" varchar(128) COLLATE "C" not null, "description" text not null, "parameters" jsonb not null, "required_capabilities" jsonb not null, "need_key" varchar(64) COLLATE "C" not null, "priority" smallint not null, "state" varchar(16) COLLATE "C" not null, "supervisor_id" varchar(128) COLLATE "C" not null, "agent_id" varchar(128) COLLATE "C", "previous_agent_id" varchar(128) COLLATE "C", "message_id" varchar(128) COLLATE "C", "assignment" integer not null, "max_assignments" integer not null, "progress" jsonb, "result" jsonb, "last_error" jsonb, "context_id" varchar(128) COLLATE "C", "correlation_id" varchar(128) COLLATE "C", "created_at" bigint not null, "assigned_at" bigint, "started_at" bigint, "deadline_at" bigint, "finished_at" bigint);
CREATE UNIQUE INDEX outbox_tasks_id ON outbox_tasks (task_id);
CREATE INDEX outbox_tasks_live ON outbox_tasks (agent_id, seq) WHERE agent_id IS NOT NULL AND finished_at IS NULL;
CREATE INDEX outbox_tasks_parked ON outbox_tasks (need_key, priority DESC, seq) WHERE agent_id IS NULL AND finished_at IS NULL;
CREATE INDEX outbox_tasks_deadline ON outbox_tasks (deadline_at) WHERE deadline_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX outbox_tasks_state ON outbox_tasks (state, seq);
CREATE INDEX outbox_tasks_finished ON outbox_tasks (finished_at, state, created_at) WHERE finished_at IS NOT NULL;

-- 004_queue_depth
alter table "outbox_messages" add column "concurrency_key" varchar(128) COLLATE "C";
alter table "outbox_messages" add column "cost" integer;
alter table "outbox_messages" add column "delivery" varchar(16) COLLATE "C";
alter table "outbox_messages" add column "retry" jsonb;
alter table "outbox_messages" add column "hops" integer;
alter table "outbox_messages" add column "trail" jsonb;
alter table "outbox_messages" add column "content_encoding" varchar(16) COLLATE "C";
alter table "outbox_messages" add column "failures" jsonb;
alter table "outbox_archive" add column "concurrency_key" varchar(128) COLLATE "C";
alter table "outbox_archive" add column "cost" integer;
alter table "outbox_archive" add column "delivery" varchar(16) COLLATE "C";
alter table "outbox_archive" add column "retry" jsonb;
alter table "outbox_archive" add column "hops" integer;
alter table "outbox_archive" add column "trail" jsonb;
alter table "outbox_archive" add column "content_encoding" varchar(16) COLLATE "C";
alter table "outbox_archive" add column "failures" jsonb;
alter table "outbox_dead_letters" add column "concurrency_key" varchar(128) COLLATE "C";
alter table "outbox_dead_letters" add column "cost" integer;
alter table "outbox_dead_letters" add column "delivery" varchar(16) COLLATE "C";
alter table "outbox_dead_letters" add column "retry" jsonb;
alter table "outbox_dead_letters" add column "hops" integer;
alter table "outbox_dead_letters" add column "trail" jsonb;
alter table "outbox_dead_letters" add column "content_encoding" varchar(16) COLLATE "C";
alter table "outbox_dead_letters" add column "failures" jsonb;
alter table "outbox_mailboxes" add column "retry" jsonb;
alter table "outbox_mailboxes" add column "on_dead_letter" varchar(8) COLLATE "C";
alter table "outbox_mailboxes" add column "key_limit" integer;
alter table "outbox_mailboxes" add column "aging_ms" bigint;
alter table "outbox_mailboxes" add column "fair" smallint;
alter table "outbox_mailboxes" add column "max_depth" integer;
alter table "outbox_mailboxes" add column "gated" smallint;
alter table "outbox_mailboxes" add column "breaker_threshold" integer;
alter table "outbox_mailboxes" add column "breaker_recovery_ms" bigint;
alter table "outbox_mailboxes" add column "breaker_window_ms" bigint;
alter table "outbox_mailboxes" add column "breaker_when_open" varchar(8) COLLATE "C";
alter table "outbox_mailboxes" add column "breaker_state" varchar(12) COLLATE "C";
alter table "outbox_mailboxes" add column "breaker_failures" integer;
alter table "outbox_mailboxes" add column "breaker_since" bigint;
alter table "outbox_mailboxes" add column "breaker_until" bigint;
alter table "outbox_messages" add column "rank" bigint not null default '80';
alter table "outbox_messages" add column "lane" varchar(128) COLLATE "C" not null default '';
UPDATE outbox_messages SET rank = 100 - priority;
drop index "outbox_messages_ready";
CREATE INDEX outbox_messages_ready ON outbox_messages (to_agent, lane, rank, seq) WHERE state = 0;
CREATE INDEX outbox_messages_order ON outbox_messages (to_agent, ordering_key, seq) WHERE ordering_key IS NOT NULL;
CREATE INDEX outbox_messages_share ON outbox_messages (to_agent, concurrency_key, state, rank, seq) WHERE concurrency_key IS NOT NULL;
create table "outbox_keys" ("to_agent" varchar(128) COLLATE "C" not null, "kind" varchar(8) COLLATE "C" not null, "name" varchar(128) COLLATE "C" not null, "halted_by" bigint, "halted_at" bigint, "last_rank" bigint, constraint "outbox_keys_pk" primary key ("to_agent", "kind", "name"));
CREATE INDEX outbox_keys_halted ON outbox_keys (halted_by) WHERE halted_by IS NOT NULL;
create table "outbox_limits" ("name" varchar(128) COLLATE "C" not null, "agent_id" varchar(128) COLLATE "C", "message_type" varchar(128) COLLATE "C", "max_in_flight" integer, "bucket_size" double precision, "refill" double precision, "refill_ms" bigint, "tokens" double precision, "refilled_at" bigint, "parked_until" bigint, "removed_at" bigint, constraint "outbox_limits_pk" primary key ("name"));
create table "outbox_slots" ("name" varchar(300) COLLATE "C" not null, "seq" bigint not null, "receipt" bigint not null, constraint "outbox_slots_pk" primary key ("name", "seq"));
create table "outbox_inbox" ("consumer" varchar(128) COLLATE "C" not null, "from_agent" varchar(128) COLLATE "C" not null, "message_id" varchar(128) COLLATE "C" not null, "processed_at" bigint not null, constraint "outbox_inbox_pk" primary key ("consumer", "from_agent", "message_id"));
CREATE INDEX outbox_inbox_processed ON outbox_inbox (processed_at);
create table "outbox_conversations" ("context_id" varchar(128) COLLATE "C" not null, "messages" bigint not null, "updated_at" bigint not null, constraint "outbox_conversations_pk" primary key ("context_id"));
CREATE INDEX outbox_conversations_updated ON outbox_conversations (updated_at);
create table "outbox_consumers" ("agent_id" varchar(128) COLLATE "C" not null, "worker_id" varchar(128) COLLATE "C" not null, "message_types" jsonb, "seen_at" bigint not null, constraint "outbox_consumers_pk" primary key ("agent_id", "worker_id"));
CREATE INDEX outbox_consumers_seen ON outbox_consumers (seen_at);

-- 005_schedules
create table "outbox_schedules" ("name" varchar(128) COLLATE "C" not null, "cron" varchar(255) COLLATE "C", "time_zone" varchar(64) COLLATE "C", "every_ms" bigint, "start_at" bigint, "end_at" bigint, "message" jsonb not null, "catch_up" varchar(8) COLLATE "C" not null, "max_catch_up" integer not null, "next_run_at" bigint, "due_at" bigint, "last_run_at" bigint, "last_fired_at" bigint, "last_message_id" varchar(128) COLLATE "C", "runs" bigint not null, "skipped" bigint not null, "paused_at" bigint, "pause_reason" text, "failures" integer not null, "last_error" jsonb, "created_at" bigint not null, "updated_at" bigint not null, constraint "outbox_schedules_pk" primary key ("name"));
CREATE INDEX outbox_schedules_due ON outbox_schedules (due_at) WHERE due_at IS NOT NULL;

-- 006_dead_letters
CREATE INDEX outbox_dead_letters_cause ON outbox_dead_letters (fingerprint, seq);

-- 007_flow
alter table "outbox_keys" add column "room" integer;
alter table "outbox_keys" add column "room_at" bigint;
CREATE INDEX outbox_messages_blocked ON outbox_messages (to_agent, seq) WHERE state = 2;

-- 008_agents
create table "outbox_agent_capabilities_copy" ("capability" varchar(128) COLLATE "C" not null, "agent_id" varchar(128) COLLATE "C" not null);
INSERT INTO outbox_agent_capabilities_copy (capability, agent_id) SELECT DISTINCT capability, agent_id FROM outbox_agent_capabilities;
drop table "outbox_agent_capabilities";
create table "outbox_agent_capabilities" ("capability" varchar(128) COLLATE "C" not null, "agent_id" varchar(128) COLLATE "C" not null, "kind" varchar(8) COLLATE "C" not null default '', "sort_key" varchar(140) COLLATE "C" not null default '', "value" varchar(128) COLLATE "C", constraint "outbox_agent_capabilities_pk" primary key ("capability", "agent_id", "kind", "sort_key"));
CREATE INDEX outbox_agent_capabilities_agent ON outbox_agent_capabilities (agent_id);
INSERT INTO outbox_agent_capabilities (capability, agent_id) SELECT capability, agent_id FROM outbox_agent_capabilities_copy;
drop table "outbox_agent_capabilities_copy";
alter table "outbox_agents" add column "card" jsonb;
alter table "outbox_agents" add column "card_hash" varchar(64) COLLATE "C";
alter table "outbox_agents" add column "lifecycle" varchar(16) COLLATE "C" not null default 'active';
alter table "outbox_agents" add column "needs_agents" jsonb;
alter table "outbox_agents" add column "weight" integer not null default '1';
alter table "outbox_agents" add column "drained_by" varchar(16) COLLATE "C";
create table "outbox_agent_history" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "agent_id" varchar(128) COLLATE "C" not null, "event" varchar(32) COLLATE "C" not null, "at" bigint not null, "data" jsonb, "card" jsonb, "card_hash" varchar(64) COLLATE "C", "gone_at" bigint);
CREATE INDEX outbox_agent_history_agent ON outbox_agent_history (agent_id, seq);
CREATE INDEX outbox_agent_history_gone ON outbox_agent_history (gone_at) WHERE gone_at IS NOT NULL;
CREATE INDEX outbox_tasks_context ON outbox_tasks (context_id, assigned_at DESC, agent_id) WHERE context_id IS NOT NULL AND agent_id IS NOT NULL;
CREATE INDEX outbox_agents_turn ON outbox_agents (last_assigned_at, agent_id) WHERE lost_at IS NULL;

-- 009_tasks
alter table "outbox_tasks" add column "cost" integer not null default '1';
alter table "outbox_tasks" add column "preferred_capabilities" jsonb;
alter table "outbox_tasks" add column "strategy" varchar(16) COLLATE "C";
alter table "outbox_tasks" add column "parent_task_id" varchar(128) COLLATE "C";
alter table "outbox_tasks" add column "requested_by" varchar(128) COLLATE "C";
alter table "outbox_tasks" add column "waits_for" integer not null default '0';
alter table "outbox_tasks" add column "paused_at" bigint;
alter table "outbox_tasks" add column "urgent_at" bigint not null default '9007199254740991';
alter table "outbox_tasks" add column "warnings" jsonb;
alter table "outbox_tasks" add column "run_timeout_ms" bigint;
alter table "outbox_tasks" add column "run_deadline_at" bigint;
alter table "outbox_tasks" add column "operation" varchar(16) COLLATE "C";
alter table "outbox_tasks" add column "auction" jsonb;
alter table "outbox_tasks" add column "auction_ends_at" bigint;
UPDATE outbox_tasks SET urgent_at = deadline_at WHERE deadline_at IS NOT NULL;
drop index "outbox_tasks_parked";
CREATE INDEX outbox_tasks_parked ON outbox_tasks (need_key, priority DESC, urgent_at, seq) WHERE agent_id IS NULL AND finished_at IS NULL AND waits_for = 0 AND paused_at IS NULL AND auction_ends_at IS NULL;
drop index "outbox_tasks_live";
CREATE INDEX outbox_tasks_live ON outbox_tasks (agent_id, seq, cost) WHERE agent_id IS NOT NULL AND finished_at IS NULL;
CREATE INDEX outbox_tasks_run_deadline ON outbox_tasks (run_deadline_at) WHERE run_deadline_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX outbox_tasks_auction ON outbox_tasks (auction_ends_at) WHERE auction_ends_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX outbox_tasks_parent ON outbox_tasks (parent_task_id, seq) WHERE parent_task_id IS NOT NULL;
create table "outbox_task_dependencies" ("task_id" varchar(128) COLLATE "C" not null, "depends_on" varchar(128) COLLATE "C" not null, "when_failed" varchar(8) COLLATE "C" not null, constraint "outbox_task_dependencies_pk" primary key ("task_id", "depends_on"));
CREATE INDEX outbox_task_dependencies_on ON outbox_task_dependencies (depends_on, task_id);
create table "outbox_task_inputs" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "input_id" varchar(128) COLLATE "C" not null, "task_id" varchar(128) COLLATE "C" not null, "assignment" integer not null, "kind" varchar(16) COLLATE "C" not null, "prompt" text not null, "answer_schema" jsonb, "asked_by" varchar(128) COLLATE "C" not null, "asked_at" bigint not null, "due_at" bigint, "answered_by" varchar(128) COLLATE "C", "answered_at" bigint, "answer" jsonb);
CREATE UNIQUE INDEX outbox_task_inputs_id ON outbox_task_inputs (input_id);
CREATE INDEX outbox_task_inputs_task ON outbox_task_inputs (task_id, seq);
CREATE INDEX outbox_task_inputs_open ON outbox_task_inputs (seq) WHERE answered_at IS NULL;
CREATE INDEX outbox_task_inputs_due ON outbox_task_inputs (due_at) WHERE due_at IS NOT NULL AND answered_at IS NULL;

-- 010_workflows
create table "outbox_workflows" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "workflow_id" varchar(128) COLLATE "C" not null, "workflow_type" varchar(128) COLLATE "C" not null, "mode" varchar(16) COLLATE "C" not null, "supervisor_id" varchar(128) COLLATE "C" not null, "state" varchar(32) COLLATE "C" not null, "resumes_as" varchar(32) COLLATE "C", "version" integer not null default '0', "input" jsonb not null, "context_id" varchar(128) COLLATE "C", "correlation_id" varchar(128) COLLATE "C", "on_failure" varchar(16) COLLATE "C" not null, "failure" jsonb, "output_bytes" bigint not null default '0', "completions" integer not null default '0', "deadline_ms" bigint, "deadline_at" bigint, "due_at" bigint, "created_at" bigint not null, "finished_at" bigint);
CREATE UNIQUE INDEX outbox_workflows_id ON outbox_workflows (workflow_id);
CREATE INDEX outbox_workflows_due ON outbox_workflows (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX outbox_workflows_state ON outbox_workflows (state, seq);
CREATE INDEX outbox_workflows_type ON outbox_workflows (workflow_type, seq);
CREATE INDEX outbox_workflows_ended ON outbox_workflows (finished_at) WHERE finished_at IS NOT NULL;
create table "outbox_workflow_steps" ("workflow_id" varchar(128) COLLATE "C" not null, "step_id" varchar(64) COLLATE "C" not null, "part" varchar(8) COLLATE "C" not null, "position" integer not null, "plan" jsonb not null, "work" jsonb not null, "state" varchar(16) COLLATE "C" not null, "attempt" integer not null default '0', "failures" integer not null default '0', "task_id" varchar(128) COLLATE "C", "due_at" bigint, "completion" integer, "result" jsonb, "error" jsonb, "warnings" jsonb, "started_at" bigint, "finished_at" bigint, constraint "outbox_workflow_steps_pk" primary key ("workflow_id", "step_id", "part"));
CREATE INDEX outbox_workflow_steps_task ON outbox_workflow_steps (task_id) WHERE task_id IS NOT NULL AND finished_at IS NULL;
create table "outbox_workflow_signals" ("workflow_id" varchar(128) COLLATE "C" not null, "name" varchar(128) COLLATE "C" not null, "data" jsonb not null, "sent_by" varchar(128) COLLATE "C", "sent_at" bigint not null, constraint "outbox_workflow_signals_pk" primary key ("workflow_id", "name"));

-- 011_handoffs
create table "outbox_handoffs" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "handoff_id" varchar(128) COLLATE "C" not null, "from_agent" varchar(128) COLLATE "C" not null, "to_agent" varchar(128) COLLATE "C" not null, "required_capabilities" jsonb, "task_id" varchar(128) COLLATE "C", "assignment" integer, "detached" integer not null default '0', "context_id" varchar(128) COLLATE "C", "correlation_id" varchar(128) COLLATE "C", "reason" text not null, "current_state" jsonb, "context" jsonb not null, "deliverables" jsonb not null, "actions_required" jsonb not null, "priority" integer not null, "estimated_effort" varchar(255) COLLATE "C", "state" varchar(16) COLLATE "C" not null, "message_id" varchar(128) COLLATE "C" not null, "note" text, "outcome" varchar(16) COLLATE "C", "warnings" jsonb, "created_at" bigint not null, "due_at" bigint not null, "accepted_at" bigint, "started_at" bigint, "ended_at" bigint);
CREATE UNIQUE INDEX outbox_handoffs_id ON outbox_handoffs (handoff_id);
CREATE UNIQUE INDEX outbox_handoffs_offer ON outbox_handoffs (task_id) WHERE task_id IS NOT NULL AND accepted_at IS NULL AND ended_at IS NULL;
CREATE INDEX outbox_handoffs_due ON outbox_handoffs (due_at) WHERE accepted_at IS NULL AND ended_at IS NULL;
CREATE INDEX outbox_handoffs_live_task ON outbox_handoffs (task_id, seq) WHERE task_id IS NOT NULL AND ended_at IS NULL;
CREATE INDEX outbox_handoffs_live ON outbox_handoffs (seq) WHERE ended_at IS NULL;
CREATE INDEX outbox_handoffs_taken ON outbox_handoffs (to_agent, accepted_at) WHERE accepted_at IS NOT NULL AND ended_at IS NULL;
CREATE INDEX outbox_handoffs_from ON outbox_handoffs (from_agent, seq);
CREATE INDEX outbox_handoffs_to ON outbox_handoffs (to_agent, seq);
CREATE INDEX outbox_handoffs_task ON outbox_handoffs (task_id, seq) WHERE task_id IS NOT NULL;
CREATE INDEX outbox_handoffs_ended ON outbox_handoffs (ended_at) WHERE ended_at IS NOT NULL;

-- 012_changes
create table "outbox_change_requests" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "request_id" varchar(128) COLLATE "C" not null, "requesting_agent" varchar(128) COLLATE "C" not null, "affected_modules" jsonb not null, "change_type" varchar(32) COLLATE "C" not null, "description" text not null, "changes" jsonb not null, "impact_analysis" jsonb not null, "testing_plan" jsonb not null, "state" varchar(16) COLLATE "C" not null, "revision" integer not null, "created_at" bigint not null, "updated_at" bigint not null);
CREATE UNIQUE INDEX outbox_change_requests_id ON outbox_change_requests (request_id);
CREATE INDEX outbox_change_requests_state ON outbox_change_requests (state, seq);
create table "outbox_change_approvals" ("request_id" varchar(128) COLLATE "C" not null, "revision" integer not null, "module" varchar(128) COLLATE "C" not null, "decision" varchar(16) COLLATE "C" not null, "decided_by" varchar(128) COLLATE "C" not null, "note" text, "decided_at" bigint not null, constraint "outbox_change_approvals_pk" primary key ("request_id", "revision", "module"));
create table "outbox_change_reports" ("request_id" varchar(128) COLLATE "C" not null, "revision" integer not null, "module" varchar(128) COLLATE "C" not null, "passed" integer not null, "failed" integer not null, "url" text, "reported_by" varchar(128) COLLATE "C" not null, "reported_at" bigint not null, constraint "outbox_change_reports_pk" primary key ("request_id", "revision", "module"));
create table "outbox_change_history" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "request_id" varchar(128) COLLATE "C" not null, "from_state" varchar(16) COLLATE "C", "to_state" varchar(16) COLLATE "C" not null, "moved_by" varchar(128) COLLATE "C" not null, "note" text, "forced" integer not null, "at" bigint not null);
CREATE INDEX outbox_change_history_request ON outbox_change_history (request_id, seq);

-- 013_system
alter table "outbox_mailboxes" add column "held" jsonb;
alter table "outbox_mailboxes" add column "topology" jsonb;
create table "outbox_maintenance_acks" ("since" bigint not null, "agent_id" varchar(128) COLLATE "C" not null, "acked_at" bigint not null, constraint "outbox_maintenance_acks_pk" primary key ("since", "agent_id"));

-- 014_state
create table "outbox_locks" ("resource_id" varchar(128) COLLATE "C" not null, "owner_id" varchar(128) COLLATE "C", "fencing_token" bigint not null, "locked_at" bigint not null, "expires_at" bigint not null, "metadata" jsonb, constraint "outbox_locks_pk" primary key ("resource_id"));
CREATE INDEX outbox_locks_expiry ON outbox_locks (expires_at);
create table "outbox_lock_floor" ("id" varchar(16) COLLATE "C" not null, "fencing_token" bigint not null, constraint "outbox_lock_floor_pk" primary key ("id"));
INSERT INTO outbox_lock_floor (id, fencing_token) VALUES ('floor', 0);
create table "outbox_aggregates" ("aggregate_id" varchar(128) COLLATE "C" not null, "aggregate_type" varchar(128) COLLATE "C", "version" bigint not null, constraint "outbox_aggregates_pk" primary key ("aggregate_id"));
create table "outbox_events" ("seq" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "position" bigint, "event_id" varchar(128) COLLATE "C" not null, "aggregate_id" varchar(128) COLLATE "C" not null, "aggregate_type" varchar(128) COLLATE "C", "version" bigint not null, "event_type" varchar(128) COLLATE "C" not null, "data" jsonb not null, "metadata" jsonb, "agent_id" varchar(128) COLLATE "C", "correlation_id" varchar(128) COLLATE "C", "recorded_at" bigint not null);
CREATE UNIQUE INDEX outbox_events_id ON outbox_events (event_id);
CREATE UNIQUE INDEX outbox_events_version ON outbox_events (aggregate_id, version);
CREATE UNIQUE INDEX outbox_events_position ON outbox_events (position) WHERE position IS NOT NULL;
CREATE INDEX outbox_events_type ON outbox_events (event_type, position) WHERE position IS NOT NULL;
CREATE INDEX outbox_events_new ON outbox_events (seq) WHERE position IS NULL;
create table "outbox_event_cursors" ("name" varchar(128) COLLATE "C" not null, "position" bigint not null, "updated_at" bigint, constraint "outbox_event_cursors_pk" primary key ("name"));
INSERT INTO outbox_event_cursors (name, position) VALUES ('', 0);
create table "outbox_snapshots" ("aggregate_id" varchar(128) COLLATE "C" not null, "name" varchar(128) COLLATE "C" not null, "schema_version" integer not null, "version" bigint not null, "state" jsonb not null, "taken_at" bigint not null, constraint "outbox_snapshots_pk" primary key ("aggregate_id", "name", "schema_version"));
create table "outbox_entities" ("entity_type" varchar(128) COLLATE "C" not null, "entity_id" varchar(128) COLLATE "C" not null, "version" bigint not null, "state" jsonb, "previous_state" jsonb, "updated_by" varchar(128) COLLATE "C", "updated_at" bigint not null, constraint "outbox_entities_pk" primary key ("entity_type", "entity_id"));
create table "outbox_entity_history" ("entity_type" varchar(128) COLLATE "C" not null, "entity_id" varchar(128) COLLATE "C" not null, "version" bigint not null, "updates" jsonb, "previous_state" jsonb, "updated_by" varchar(128) COLLATE "C", "updated_at" bigint not null, constraint "outbox_entity_history_pk" primary key ("entity_type", "entity_id", "version"));

-- 015_auctions
create table "outbox_bids" ("task_id" varchar(128) COLLATE "C" not null, "round" integer not null, "agent_id" varchar(128) COLLATE "C" not null, "state" varchar(16) COLLATE "C" not null, "amount" double precision, "note" text, "called_at" bigint not null, "answered_at" bigint, constraint "outbox_bids_pk" primary key ("task_id", "round", "agent_id"));
CREATE INDEX outbox_bids_old ON outbox_bids (called_at);

-- 016_copy
ALTER TABLE outbox_messages ALTER created_at SET DEFAULT CAST(floor(date_part('epoch', statement_timestamp()) * 1000) AS bigint), ALTER visible_at SET DEFAULT CAST(floor(date_part('epoch', statement_timestamp()) * 1000) AS bigint);

-- what was applied
create table "outbox_migrations" ("id" serial primary key, "name" varchar(255), "batch" integer, "migration_time" timestamptz);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('001_messages', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('002_agents', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('003_tasks', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('004_queue_depth', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('005_schedules', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('006_dead_letters', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('007_flow', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('008_agents', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('009_tasks', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('010_workflows', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('011_handoffs', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('012_changes', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('013_system', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('014_state', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('015_auctions', 1, CURRENT_TIMESTAMP);
INSERT INTO outbox_migrations (name, batch, migration_time) VALUES ('016_copy', 1, CURRENT_TIMESTAMP);
