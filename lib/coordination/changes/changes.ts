import { AgentCommunicationError, ValidationFailed } from "../../errors.ts";
import {
  AMENDABLE,
  type ChangeApproval,
  type ChangeMove,
  type ChangeReport,
  type ChangeReportInput,
  type ChangeRequest,
  type ChangeRequestInput,
  type ChangeState,
  changeListSchema,
  changeNote,
  changeReportSchema,
  changeRequestSchema,
  forceReason,
  type ListChangesOptions,
  moduleName,
  statesBefore,
} from "../../protocol/changes.ts";
import { given, noMore } from "../../protocol/given.ts";
import { MessageType } from "../../protocol/types.ts";
import { id, parse } from "../../protocol/validate.ts";
import type { TxOption } from "../../queue/claimed.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { ChangeStore } from "../../store/changes.ts";
import type { Db } from "../../store/dialect.ts";
import { joined } from "../../store/identity.ts";
import type { SchemaCheck } from "../../store/migrate.ts";
import { type Parts, TELLING, type Tx } from "../parts.ts";

/** Who moves a request, and what he says. */
export interface ChangeActor extends TxOption {
  by: string;
  /** Up to 4,096 characters. */
  note?: string | undefined;
}

export interface ChangeDecision extends TxOption {
  /** For which of the affected modules. */
  module: string;
  by: string;
  comment?: string | undefined;
}

/**
 * Changes that concern several modules: `draft → submitted → in_review → approved → implementing → testing →
 * completed`, or rejected, or withdrawn. Each move, what is noted of it and the message to the requester are one commit.
 */
export class ChangeRequests {
  readonly #knex: Db;
  readonly #parts: Parts;
  readonly #schema: SchemaCheck;
  readonly #store: ChangeStore;

  /** @internal Made by Coordination. */
  constructor(knex: Db, parts: Parts, schema: SchemaCheck, store: ChangeStore) {
    this.#knex = knex;
    this.#parts = parts;
    this.#schema = schema;
    this.#store = store;
  }

  /**
   * Stores a request, submitted unless it is a draft, and returns its id, `CR-YYYYMMDDHHMMSS-module` by the
   * database's clock in UTC; `-2` and so on behind it where that is taken.
   *
   * @throws ValidationFailed
   */
  async request(request: ChangeRequestInput, options: TxOption = {}): Promise<string> {
    const change = parse(changeRequestSchema, request, "request");
    return this.#run(options, async (trx) => {
      const own = change.module ?? (await this.#store.moduleOf(trx, change.requestingAgent));
      const module = parse(moduleName, own ?? change.affectedModules[0], "request.module");
      const requestId = await this.#store.insert(trx, change, module);
      const by = change.requestingAgent;
      const stored = await this.#of(trx, requestId);
      await this.#moved(trx, stored, { from: null, to: stored.state, by, note: null });
      return requestId;
    });
  }

  /** Hands a draft in. @throws AgentCommunicationError UNKNOWN_CHANGE, CHANGE_STATE (as all that follow) */
  submit(requestId: string, options: ChangeActor): Promise<ChangeRequest> {
    return this.#move(requestId, "submitted", options, { from: ["draft"] });
  }

  review(requestId: string, options: ChangeActor): Promise<ChangeRequest> {
    return this.#move(requestId, "in_review", options);
  }

  /** A module agrees; when all have, the request is approved in the same commit. Each module decides once. */
  approve(requestId: string, decision: ChangeDecision): Promise<ChangeRequest> {
    return this.#decide(requestId, "approved", decision);
  }

  /** A module refuses, which rejects the request. */
  reject(requestId: string, decision: ChangeDecision): Promise<ChangeRequest> {
    return this.#decide(requestId, "rejected", decision);
  }

  /** Changes what is proposed: decisions and reports so far no longer count, and it is submitted anew (a draft stays one). */
  async amend(
    requestId: string,
    options: ChangeActor & { changes: Record<string, unknown>; description?: string | undefined },
  ): Promise<ChangeRequest> {
    const { changes, description, ...actor } = given(options);
    const { by, note, rest } = actorOf(actor);
    const wanted = parse(changeRequestSchema.shape.changes.unwrap(), changes, "options.changes");
    const said = parse(changeNote, description, "options.description");
    return this.#run(rest, async (trx) => {
      const before = await this.#lock(trx, requestId);
      const to = before.state === "draft" ? "draft" : "submitted";
      if (!(await this.#store.move(trx, before.requestId, AMENDABLE, to))) {
        throw late(before, "amended");
      }
      await this.#store.amend(trx, before.requestId, wanted, said);
      const after = await this.#of(trx, before.requestId);
      await this.#moved(trx, after, { from: before.state, to, by, note });
      return after;
    });
  }

  implement(requestId: string, options: ChangeActor): Promise<ChangeRequest> {
    return this.#move(requestId, "implementing", options);
  }

  test(requestId: string, options: ChangeActor): Promise<ChangeRequest> {
    return this.#move(requestId, "testing", options);
  }

  /** Says how a module's tests went, while it is being implemented or tested; a later report replaces an earlier one. */
  async report(requestId: string, report: ChangeReportInput, options: TxOption = {}) {
    const checked = parse(changeReportSchema, report, "report");
    return this.#run(options, async (trx): Promise<ChangeRequest> => {
      const change = await this.#lock(trx, requestId);
      affected(change, checked.module, "report.module");
      if (change.state !== "implementing" && change.state !== "testing") {
        throw late(change, "given a test report");
      }
      await this.#store.report(trx, change, { ...checked, url: checked.url ?? null });
      return change;
    });
  }

  /**
   * Ends it. Where its testing plan names tests, each affected module needs a report without failures; `force`, the
   * reason why not, goes without, and is noted.
   *
   * @throws AgentCommunicationError CHANGE_UNTESTED, with the modules in details.missing
   */
  complete(
    requestId: string,
    options: ChangeActor & { force?: string | undefined },
  ): Promise<ChangeRequest> {
    const { force, ...actor } = given(options);
    const reason = parse(forceReason, force, "options.force");
    const forced = reason !== undefined;
    const note = [actor.note, reason].filter(Boolean).join("; ") || undefined;
    return this.#move(requestId, "completed", { ...actor, note }, { forced });
  }

  withdraw(requestId: string, options: ChangeActor): Promise<ChangeRequest> {
    return this.#move(requestId, "withdrawn", options);
  }

  /** The request with its present decisions and reports, or null. */
  async get(
    requestId: string,
  ): Promise<(ChangeRequest & { approvals: ChangeApproval[]; reports: ChangeReport[] }) | null> {
    const key = parse(id, requestId, "requestId");
    await this.#schema.ensure();
    const change = await this.#store.get(this.#knex, key);
    if (change === undefined) return null;
    const approvals = await this.#store.approvals(this.#knex, change);
    return { ...change, approvals, reports: await this.#store.reports(this.#knex, change) };
  }

  /** In the order in which they were made, a page at a time. */
  async list(options: ListChangesOptions = {}): Promise<ChangeRequest[]> {
    const { state, afterSeq, limit } = parse(changeListSchema, options, "options");
    await this.#schema.ensure();
    return this.#store.list(state, afterSeq, limit);
  }

  /** Who moved it when: the last 1,000 moves, oldest first. */
  async history(requestId: string): Promise<ChangeMove[]> {
    const key = parse(id, requestId, "requestId");
    await this.#schema.ensure();
    return this.#store.history(this.#knex, key);
  }

  async #move(
    requestId: string,
    to: ChangeState,
    options: ChangeActor,
    {
      from = statesBefore(to),
      forced = false,
    }: { from?: readonly ChangeState[]; forced?: boolean } = {},
  ): Promise<ChangeRequest> {
    const { by, note, rest } = actorOf(options);
    return this.#run(rest, async (trx) => {
      const before = await this.#lock(trx, requestId);
      // Refused before anything changes: a caller's transaction may go on after it.
      if (!from.includes(before.state)) throw late(before, to);
      const missing = to === "completed" ? await this.#untested(trx, before) : [];
      if (missing.length > 0 && !forced) {
        throw new AgentCommunicationError(
          "CHANGE_UNTESTED",
          `the change request "${before.requestId}" has no passing test report of ${missing.join(", ")}`,
          { details: { requestId: before.requestId, missing } },
        );
      }
      if (!(await this.#store.move(trx, before.requestId, from, to))) throw late(before, to);
      // What is implemented anew is to be tested anew.
      if (to === "implementing") await this.#store.forgetReports(trx, before);
      const after = { ...before, state: to };
      const skipped = missing.length > 0;
      await this.#moved(trx, after, { from: before.state, to, by, note, forced: skipped });
      return this.#of(trx, before.requestId);
    });
  }

  async #decide(
    requestId: string,
    decision: "approved" | "rejected",
    options: ChangeDecision,
  ): Promise<ChangeRequest> {
    const { module, comment, ...actor } = given(options);
    const { by, note, rest } = actorOf({ ...actor, note: comment });
    const name = parse(moduleName, module, "options.module");
    return this.#run(rest, async (trx) => {
      const change = await this.#lock(trx, requestId);
      affected(change, name, "options.module");
      if (change.state !== "submitted" && change.state !== "in_review")
        throw late(change, decision);
      await this.#maySpeak(trx, change, name, by);
      // The request is locked: of two that decide for one module, the second sees the first.
      const before = await this.#store.approvals(trx, change);
      const theirs = before.find((approval) => approval.module === name);
      if (theirs !== undefined) {
        throw late(change, decision, `${theirs.by} has ${theirs.decision} it for "${name}"`);
      }
      if (change.state === "submitted") {
        await this.#store.move(trx, change.requestId, ["submitted"], "in_review");
        const reviewing = { from: change.state, to: "in_review", by, note: null } as const;
        await this.#moved(trx, { ...change, state: "in_review" }, reviewing);
      }
      await this.#store.decide(trx, change, { module: name, decision, by, comment: note });
      const all = before.length + 1 === change.affectedModules.length;
      if (decision === "rejected" || all) {
        await this.#store.move(trx, change.requestId, ["in_review"], decision);
        const move = { from: "in_review", to: decision, by, note } as const;
        await this.#moved(trx, { ...change, state: decision }, move);
      }
      return this.#of(trx, change.requestId);
    });
  }

  async #untested(trx: Tx, change: ChangeRequest): Promise<string[]> {
    const { unitTests, integrationTests } = change.testingPlan;
    if (unitTests.length + integrationTests.length === 0) return [];
    const reports = await this.#store.reports(trx, change);
    const passing = reports.filter(({ passed, failed }) => failed === 0 && passed > 0);
    const tested = new Set(passing.map(({ module }) => module));
    return change.affectedModules.filter((module) => !tested.has(module));
  }

  /** Where somebody speaks for a module, nobody else decides for it. */
  async #maySpeak(trx: Tx, change: ChangeRequest, module: string, by: string): Promise<void> {
    const speakers = await this.#store.speakers(trx, [module]);
    if (speakers.length === 0 || speakers.some(({ agentId }) => agentId === by)) return;
    throw new AgentCommunicationError(
      "CHANGE_NOT_OWNER",
      `"${by}" does not speak for the module "${module}"`,
      {
        details: {
          requestId: change.requestId,
          module,
          speakers: speakers.map(({ agentId }) => agentId),
        },
      },
    );
  }

  /** Notes a move, sends it to the requester and to who speaks for the modules, and tells observers once it is committed. */
  async #moved(
    trx: Tx,
    change: ChangeRequest,
    move: Omit<ChangeMove, "at" | "forced"> & { readonly forced?: boolean },
  ): Promise<void> {
    const { requestId, requestingAgent, state, revision } = change;
    const { from, by, note, forced = false } = move;
    await this.#store.note(trx, requestId, { ...move, forced });
    const data = { request_id: requestId, state, from_state: from, by, note, forced, revision };
    if (state !== "draft") {
      const speakers = await this.#store.speakers(trx, change.affectedModules);
      const others = speakers.map(({ agentId }) => agentId).filter((agentId) => agentId !== by);
      await this.#parts.queue.sendMessage(
        {
          fromAgent: by,
          toAgent: [...new Set([requestingAgent, ...others])],
          messageType: MessageType.CHANGE_REQUEST_UPDATED,
          content: { ...data, affected_modules: change.affectedModules },
          correlationId: requestId,
          hops: 0,
        },
        { tx: trx, flow: TELLING },
      );
    }
    const { observers } = this.#parts;
    if (!observers.active) return;
    const event = `change_${state}`;
    afterCommit(trx, () =>
      observers.emit([{ type: "agent", event, agentId: by, at: Date.now(), data }]),
    );
  }

  async #lock(trx: Tx, requestId: string): Promise<ChangeRequest> {
    const key = parse(id, requestId, "requestId");
    return (await this.#store.lock(trx, key)) ?? unknown(key);
  }

  async #of(trx: Tx, requestId: string): Promise<ChangeRequest> {
    return (await this.#store.get(trx, requestId)) ?? unknown(requestId);
  }

  async #run<T>(options: TxOption, run: (trx: Tx) => Promise<T>): Promise<T> {
    const { tx, ...rest } = given(options);
    noMore(rest);
    await this.#schema.ensure(tx);
    const db = tx === undefined ? this.#knex : (joined(this.#knex, tx) as Tx);
    return this.#store.transaction(run, db);
  }
}

function actorOf(options: ChangeActor) {
  const { by, note, ...rest } = given(options);
  const said = parse(changeNote, note, "options.note") ?? null;
  return { by: parse(id, by, "options.by"), note: said, rest };
}

function unknown(requestId: string): never {
  throw new AgentCommunicationError("UNKNOWN_CHANGE", `there is no change request "${requestId}"`, {
    details: { requestId },
  });
}

/** @throws ValidationFailed */
function affected(change: ChangeRequest, module: string, what: string): void {
  if (change.affectedModules.includes(module)) return;
  throw new ValidationFailed(`${what}: "${module}" is not affected by "${change.requestId}"`);
}

function late(change: ChangeRequest, wanted: string, why = `it is ${change.state}`) {
  return new AgentCommunicationError(
    "CHANGE_STATE",
    `the change request "${change.requestId}" cannot be ${wanted}: ${why}`,
    { details: { requestId: change.requestId, state: change.state } },
  );
}
