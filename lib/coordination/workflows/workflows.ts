import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { AgentCommunicationError, MessageTimeout, ValidationFailed } from "../../errors.ts";
import { given, noMore } from "../../protocol/given.ts";
import { jsonDocument, parse } from "../../protocol/validate.ts";
import { dependents } from "../../protocol/workflow-plan.ts";
import { isOver } from "../../protocol/workflow-states.ts";
import {
  type CancelWorkflowOptions,
  cancelWorkflowSchema,
  type ListWorkflowsOptions,
  listWorkflowsSchema,
  MOST_SIGNAL_BYTES,
  type RetryWorkflowOptions,
  retryWorkflowSchema,
  type SignalOptions,
  signalNameOf,
  signalOptionsSchema,
  WORKFLOW_FAILURES,
  type Workflow,
  type WorkflowInput,
  type WorkflowSummary,
  waitWorkflowMs,
  workflowIdOf,
  workflowSchema,
} from "../../protocol/workflows.ts";
import type { TxOption } from "../../queue/claimed.ts";
import type { Db } from "../../store/dialect.ts";
import { joined } from "../../store/identity.ts";
import type { SchemaCheck } from "../../store/migrate.ts";
import type { Tx } from "../parts.ts";
import type { Book } from "./book.ts";
import { type Engine, Move } from "./move.ts";
import { newSteps, newWorkflow } from "./start.ts";
import { tick, WorkflowFollower, WorkflowSweep } from "./sweep.ts";
import { tellWorkflow } from "./told.ts";
import { summaryOf, workflowOf } from "./view.ts";
import { explain, type WorkflowExplanation } from "./why.ts";

/** What `start` returns: the workflow as it is stored, and whether it was there before. */
export type StartedWorkflow = Workflow & { readonly duplicate: boolean };

export interface WaitWorkflowOptions {
  /** Milliseconds. Default 300,000. */
  timeoutMs?: number | undefined;
  /** Stops waiting: `wait` then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Pauses between two looks of `wait`, in milliseconds. */
const FIRST_PAUSE_MS = 10;
const LONGEST_PAUSE_MS = 500;

/**
 * Work in steps, each of them a task: one after the other, all at once, or as they depend on each other. How far a
 * workflow is stands in the database alone: the end of a step, and the message that begins the next one, are one
 * commit, so that whoever dies, another supervisor goes on as if nothing had happened.
 */
export class Workflows {
  readonly #knex: Db;
  readonly #schema: SchemaCheck;
  readonly #engine: Engine;

  /** @internal Made by Coordination. */
  constructor(knex: Db, schema: SchemaCheck, engine: Engine) {
    this.#knex = knex;
    this.#schema = schema;
    this.#engine = engine;
    engine.parts.followers.push(new WorkflowFollower(engine));
    engine.parts.sweepSteps.push(new WorkflowSweep(engine));
  }

  /**
   * Stores a workflow and begins its first steps, in one commit; with `tx` in the caller's. The same id again
   * returns the workflow that is there, whatever else is given (`duplicate: true`). A supervisor with the id
   * `supervisorId` must run to take the answers of agents.
   *
   * @throws ValidationFailed naming the step: unknown or cyclic dependencies, references to what need not have ended
   *   before; PayloadTooLarge
   */
  async start(workflow: WorkflowInput, options: TxOption = {}): Promise<StartedWorkflow> {
    const draft = parse(workflowSchema, workflow, "workflow");
    const workflowId = draft.workflowId ?? `workflow_${randomBytes(16).toString("hex")}`;
    const row = newWorkflow(draft, workflowId);
    const steps = newSteps(draft);
    const tx = await this.#join(options);
    const { store, parts } = this.#engine;
    const fresh = await store.transaction(async (trx) => {
      if (!(await store.insert(trx, row))) return false;
      await store.insertSteps(trx, workflowId, steps);
      const move = (await Move.of(this.#engine, trx, workflowId)) as Move;
      tellWorkflow(parts, trx, move.book.workflow, "workflow_started", { steps: steps.length });
      await move.finish();
      return true;
    }, tx ?? this.#knex);
    if (fresh && tx === undefined) await this.#tickIfDue(workflowId);
    return { ...(await this.#read(workflowId, tx)), duplicate: !fresh };
  }

  /** A workflow with its steps and what they brought, or null. */
  async get(workflowId: string): Promise<Workflow | null> {
    await this.#schema.ensure();
    const checked = workflowIdOf(workflowId);
    const row = await this.#engine.store.get(checked);
    return row === undefined ? null : this.#read(checked);
  }

  /** In the order of their start, a page at a time. */
  async list(options: ListWorkflowsOptions = {}): Promise<WorkflowSummary[]> {
    await this.#schema.ensure();
    const filter = parse(listWorkflowsSchema, options, "options");
    return (await this.#engine.store.list(filter)).map(summaryOf);
  }

  /**
   * Begins no further step until `resume`; tasks under way go on, and what they bring is kept. Pausing a paused one
   * changes nothing.
   *
   * @throws AgentCommunicationError UNKNOWN_WORKFLOW, WORKFLOW_STATE when it is over
   */
  async pause(workflowId: string, options: TxOption = {}): Promise<Workflow> {
    return this.#act(workflowId, options, ({ workflow }, refuse) => {
      if (workflow.state === "paused") return undefined;
      if (isOver(workflow.state)) throw refuse("be paused");
      return { state: "paused", resumesAs: workflow.state };
    });
  }

  /**
   * Lets a paused one go on. Deadlines and delays that passed meanwhile have passed.
   *
   * @throws AgentCommunicationError UNKNOWN_WORKFLOW, WORKFLOW_STATE when it is over
   */
  async resume(workflowId: string, options: TxOption = {}): Promise<Workflow> {
    return this.#act(workflowId, options, ({ workflow }, refuse) => {
      if (isOver(workflow.state)) throw refuse("be resumed");
      if (workflow.state !== "paused") return undefined;
      return { state: workflow.resumesAs ?? "running", resumesAs: null };
    });
  }

  /**
   * Lets a failed one go on: from the step `fromStep`, with all that come after it, or from what did not complete.
   * What earlier steps brought is kept. Where the compensation failed, that is tried again.
   *
   * @throws AgentCommunicationError UNKNOWN_WORKFLOW, WORKFLOW_STATE unless it is failed or compensation_failed
   */
  async retry(
    workflowId: string,
    options: RetryWorkflowOptions & TxOption = {},
  ): Promise<Workflow> {
    const { tx, ...rest } = given(options);
    const asked = parse(retryWorkflowSchema, rest, "options");
    return this.#act(workflowId, { tx }, async (book, refuse, trx) => {
      const { workflow, now } = book;
      if (workflow.state === "compensation_failed" && asked.fromStep === undefined) {
        book.resetUndos();
        return { state: "compensating", finishedAt: null };
      }
      if (workflow.state !== "failed") throw refuse("be tried again");
      const again = runsAgain(book, asked.fromStep);
      book.reset(again);
      const names = book.steps.flatMap(({ stepId, plan }) =>
        again.has(stepId) && plan.signal !== null ? [plan.signal] : [],
      );
      if (names.length > 0) await this.#engine.signals.forget(trx, workflow.workflowId, names);
      const deadlineMs = asked.deadlineMs ?? workflow.deadlineMs;
      return {
        state: "running",
        failure: null,
        finishedAt: null,
        deadlineMs,
        deadlineAt: deadlineMs === null ? null : now + deadlineMs,
      };
    });
  }

  /**
   * Ends a workflow: tasks under way are canceled, and with `compensate` all that completed is undone. A failed one
   * that was not undone can be undone in this way. Canceling one that is canceled, or being undone, changes nothing.
   *
   * @throws AgentCommunicationError UNKNOWN_WORKFLOW, WORKFLOW_STATE when it is over otherwise
   */
  async cancel(
    workflowId: string,
    options: CancelWorkflowOptions & TxOption = {},
  ): Promise<Workflow> {
    const { tx, ...rest } = given(options);
    const { reason, compensate } = parse(cancelWorkflowSchema, rest, "options");
    return this.#act(workflowId, { tx }, ({ workflow }, refuse) => {
      const { state, failure, resumesAs } = workflow;
      const undoing = state === "compensating" || resumesAs === "compensating";
      if (undoing || state === "canceled" || state === "compensated") return undefined;
      if (state === "failed" && compensate) return { state: "compensating", finishedAt: null };
      if (isOver(state)) throw refuse("be canceled");
      return {
        ...(state === "paused" ? { state: "running", resumesAs: null } : {}),
        failure: {
          ...(failure ?? { code: WORKFLOW_FAILURES.CANCELED, message: reason }),
          compensate: compensate || failure?.compensate === true,
          canceled: true,
        },
      };
    });
  }

  /**
   * Gives a workflow what a step of the kind `signal` waits for, such as a person's approval; also before the step
   * begins. The first of a name counts: false for any further one.
   *
   * @throws AgentCommunicationError UNKNOWN_WORKFLOW, WORKFLOW_STATE when it is over; ValidationFailed for a name that
   *   no step waits for; PayloadTooLarge above 65,536 bytes
   */
  async signal(
    workflowId: string,
    name: string,
    data: unknown = null,
    options: SignalOptions & TxOption = {},
  ): Promise<boolean> {
    const { tx, ...rest } = given(options);
    const { from } = parse(signalOptionsSchema, rest, "options");
    const checked = signalNameOf(name);
    jsonDocument({ value: data }, "data", MOST_SIGNAL_BYTES);
    let first = false;
    await this.#act(workflowId, { tx }, async (book, refuse, trx) => {
      const { workflow, now } = book;
      if (!book.steps.some(({ plan }) => plan.signal === checked)) {
        throw new ValidationFailed(`name: no step of "${workflow.workflowId}" waits for "${name}"`);
      }
      first = (await this.#engine.signals.get(trx, workflow.workflowId, checked)) === undefined;
      if (!first) return undefined;
      if (isOver(workflow.state)) throw refuse("be given a signal");
      const sentBy = from ?? null;
      await this.#engine.signals.put(trx, workflow.workflowId, {
        name: checked,
        data,
        sentBy,
        at: now,
      });
      book.signaled(checked, data);
      return {};
    });
    return first;
  }

  /**
   * Waits until it is over, however it ends. It only looks: a supervisor must run for it to go on.
   *
   * @throws MessageTimeout, AgentCommunicationError UNKNOWN_WORKFLOW
   */
  async wait(workflowId: string, options: WaitWorkflowOptions = {}): Promise<Workflow> {
    const { signal, timeoutMs: asked, ...rest } = given(options);
    noMore(rest);
    const checked = workflowIdOf(workflowId);
    const timeoutMs = parse(waitWorkflowMs, asked, "options.timeoutMs");
    await this.#schema.ensure();
    const until = performance.now() + timeoutMs;
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 1.5, LONGEST_PAUSE_MS)) {
      signal?.throwIfAborted();
      const row = await this.#engine.store.get(checked);
      if (row === undefined) throw unknownWorkflow(checked);
      if (isOver(row.state)) return this.#read(checked);
      const left = until - performance.now();
      if (left <= 0) {
        throw new MessageTimeout(
          `the workflow "${checked}" is ${row.state} after ${timeoutMs} ms`,
          { details: { workflowId: checked, state: row.state, timeoutMs } },
        );
      }
      await sleep(Math.min(pause, left), undefined, { signal }).catch(() => undefined);
    }
  }

  /**
   * What a workflow waits for, step by step.
   *
   * @throws AgentCommunicationError UNKNOWN_WORKFLOW
   */
  async why(workflowId: string): Promise<WorkflowExplanation> {
    await this.#schema.ensure();
    const checked = workflowIdOf(workflowId);
    const { store } = this.#engine;
    const row = await store.get(checked);
    if (row === undefined) throw unknownWorkflow(checked);
    const now = await store.now(this.#knex);
    return explain(this.#engine, row, await store.fullSteps(this.#knex, checked), now);
  }

  /** Changes a workflow under its lock, and lets it go on. Undefined: there is nothing to change. */
  async #act(
    workflowId: string,
    options: TxOption,
    act: (
      book: Book,
      refuse: (what: string) => AgentCommunicationError,
      trx: Tx,
    ) => Change | undefined | Promise<Change | undefined>,
  ): Promise<Workflow> {
    const checked = workflowIdOf(workflowId);
    const tx = await this.#join(options);
    const { store } = this.#engine;
    await store.transaction(async (trx) => {
      const move = await Move.of(this.#engine, trx, checked);
      if (move === undefined) throw unknownWorkflow(checked);
      const { book } = move;
      const change = await act(book, (what) => wrongState(book.workflow, what), trx);
      if (change === undefined) return;
      const { state } = book.workflow;
      book.set(change);
      if (change.state !== undefined && change.state !== state) {
        book.tell(`workflow_${change.state}`, { before: state });
      }
      await move.finish();
    }, tx ?? this.#knex);
    if (tx === undefined) await this.#tickIfDue(checked);
    return this.#read(checked, tx);
  }

  /** Goes on at once with what one commit did not do; a sweep would do it later. */
  async #tickIfDue(workflowId: string): Promise<void> {
    const { store } = this.#engine;
    const row = await store.get(workflowId);
    if (row?.dueAt === null || row === undefined) return;
    if (row.dueAt <= (await store.now(this.#knex))) await tick(this.#engine, workflowId);
  }

  async #read(workflowId: string, tx?: Tx): Promise<Workflow> {
    const { store } = this.#engine;
    const db = tx ?? this.#knex;
    const row = await store.get(workflowId, db);
    if (row === undefined) throw unknownWorkflow(workflowId);
    const input = await store.input(db, workflowId);
    return workflowOf(row, input, await store.fullSteps(db, workflowId));
  }

  async #join(options: TxOption): Promise<Tx | undefined> {
    const { tx, ...rest } = given(options);
    noMore(rest);
    await this.#schema.ensure(tx);
    return tx === undefined ? undefined : (joined(this.#knex, tx) as Tx);
  }
}

type Change = Parameters<Book["set"]>[0];

/** Which steps run again: what did not complete, otherwise it could never end; `fromStep`; and all behind them. */
function runsAgain({ steps }: Book, fromStep: string | undefined): Set<string> {
  if (fromStep !== undefined && !steps.some(({ stepId }) => stepId === fromStep)) {
    throw new ValidationFailed(`options.fromStep: there is no step "${fromStep}"`);
  }
  const open = steps
    .filter(
      ({ state, plan, stepId }) =>
        stepId === fromStep ||
        state === "canceled" ||
        (state === "failed" && plan.severity === "critical"),
    )
    .map(({ stepId }) => stepId);
  const then = dependents(steps.map(({ stepId, plan }) => ({ stepId, dependsOn: plan.dependsOn })));
  const again = new Set<string>();
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (again.has(next)) continue;
    again.add(next);
    open.push(...(then.get(next) ?? []));
  }
  return again;
}

function unknownWorkflow(workflowId: string): AgentCommunicationError {
  return new AgentCommunicationError("UNKNOWN_WORKFLOW", `there is no workflow "${workflowId}"`, {
    details: { workflowId },
  });
}

function wrongState(
  { workflowId, state }: Pick<WorkflowSummary, "workflowId" | "state">,
  what: string,
): AgentCommunicationError {
  return new AgentCommunicationError(
    "WORKFLOW_STATE",
    `the workflow "${workflowId}" cannot ${what}: it is ${state}`,
    { details: { workflowId, state } },
  );
}
