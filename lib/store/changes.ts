import type { Knex } from "knex";
import {
  type ChangeApproval,
  type ChangeMove,
  type ChangeReport,
  type ChangeRequest,
  type ChangeState,
  type CheckedChange,
  changeId,
} from "../protocol/changes.ts";
import type { Db, Dialect } from "./dialect.ts";
import { parseText } from "./rows.ts";
import { int, type Row, readClock, transaction, translated } from "./sql.ts";

const MOST_IN_A_SECOND = 1_000;
const LOOK = 100;
const MOST_SPEAKERS = 500;
const textOrNull = (value: unknown) => (value === null ? null : String(value));

/** An agent, and the modules that it speaks for. */
export interface Speaker {
  readonly agentId: string;
  readonly modules: readonly string[];
}

/** Change requests. Every move names the states it may come from: the second of two changes nothing. */
export class ChangeStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #prefix: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#prefix = prefix;
  }

  #table(db: Db, name: "requests" | "approvals" | "reports" | "history") {
    return db(`${this.#prefix}change_${name}`);
  }

  async transaction<T>(run: (trx: Knex.Transaction) => Promise<T>, db: Db = this.#knex) {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, db, (trx) => run(trx as Knex.Transaction)),
    );
  }

  /** Stores a request under the first id of this second that is free. */
  async insert(trx: Knex.Transaction, change: CheckedChange, module: string): Promise<string> {
    const now = await readClock(trx, this.#dialect);
    const values = {
      requesting_agent: change.requestingAgent,
      affected_modules: JSON.stringify(change.affectedModules),
      change_type: change.changeType,
      description: change.description,
      changes: JSON.stringify(change.changes),
      impact_analysis: JSON.stringify(change.impactAnalysis),
      testing_plan: JSON.stringify(change.testingPlan),
      state: change.draft ? "draft" : "submitted",
      revision: 1,
      created_at: now,
      updated_at: now,
    };
    for (let first = 1; first < MOST_IN_A_SECOND; first += LOOK) {
      const ids = Array.from({ length: LOOK }, (_, n) => changeId(now, module, first + n));
      const rows = (await this.#table(trx, "requests")
        .select("request_id")
        .whereIn("request_id", ids)) as Row[];
      const taken = new Set(rows.map((row) => String(row.request_id)));
      for (const request_id of ids.filter((id) => !taken.has(id))) {
        try {
          // A savepoint: who loses the race for an id takes the next one, also in a caller's transaction.
          await trx.transaction((inner) =>
            this.#table(inner, "requests").insert({ request_id, ...values }),
          );
          return request_id;
        } catch (error) {
          if (this.#dialect.classify(error) !== "unique") throw error;
        }
      }
    }
    throw new Error(`more than ${MOST_IN_A_SECOND} change requests of ${module} in one second`);
  }

  /**
   * Who speaks for these modules: agents whose card has the module as its domain, or whose metadata name it as
   * `module`. At most 500.
   */
  async speakers(db: Db, modules: readonly string[]): Promise<Speaker[]> {
    return this.#speakers(db, (agents, domain, module) =>
      agents.where((either) =>
        either
          .whereIn(db.raw(domain) as unknown as string, [...modules])
          .orWhereIn(db.raw(module) as unknown as string, [...modules]),
      ),
    );
  }

  /** The module that an agent speaks for, if any. */
  async moduleOf(db: Db, agentId: string): Promise<string | undefined> {
    const [speaker] = await this.#speakers(db, (agents) => agents.where({ agent_id: agentId }));
    return speaker?.modules[0];
  }

  async #speakers(
    db: Db,
    narrow: (agents: Knex.QueryBuilder, domain: string, module: string) => Knex.QueryBuilder,
  ): Promise<Speaker[]> {
    const domain = this.#dialect.jsonText("card", "domain");
    const module = this.#dialect.jsonText("metadata", "module");
    const agents = db(`${this.#prefix}agents`)
      .select("agent_id", db.raw(`${domain} AS domain`), db.raw(`${module} AS module`))
      .whereNot("status", "removed")
      .orderBy("agent_id")
      .limit(MOST_SPEAKERS);
    const rows = (await narrow(agents, domain, module)) as unknown as Row[];
    return rows.map((row) => ({
      agentId: String(row.agent_id),
      modules: [row.domain, row.module].flatMap((name) => (name ? [String(name)] : [])),
    }));
  }

  async get(db: Db, requestId: string): Promise<ChangeRequest | undefined> {
    const row = (await this.#table(db, "requests").where({ request_id: requestId }).first()) as
      | Row
      | undefined;
    return row === undefined ? undefined : changeOf(row);
  }

  async list(state: ChangeState | undefined, afterSeq: number, limit: number) {
    return translated(this.#dialect, async () => {
      const found = this.#table(this.#knex, "requests").where("seq", ">", afterSeq);
      if (state !== undefined) found.where({ state });
      return ((await found.orderBy("seq").limit(limit)) as Row[]).map(changeOf);
    });
  }

  /** Moves a request on from one of these states; its row stays locked. False when it is in another one. */
  async move(trx: Db, requestId: string, from: readonly ChangeState[], to: ChangeState) {
    const moved = await this.#table(trx, "requests")
      .where({ request_id: requestId })
      .whereIn("state", [...from])
      .update({ state: to, updated_at: trx.raw(this.#dialect.now) });
    return moved > 0;
  }

  /** Locks a request until the transaction ends, and returns it as it is then. */
  async lock(trx: Db, requestId: string): Promise<ChangeRequest | undefined> {
    await this.#table(trx, "requests")
      .where({ request_id: requestId })
      .update({ updated_at: trx.raw(this.#dialect.now) });
    return this.get(trx, requestId);
  }

  /** What was proposed is something else now: earlier decisions and reports are about another revision. */
  async amend(trx: Db, requestId: string, changes: object, description: string | undefined) {
    await this.#table(trx, "requests")
      .where({ request_id: requestId })
      .update({
        changes: JSON.stringify(changes),
        ...(description === undefined ? {} : { description }),
        revision: trx.raw("revision + 1"),
      });
  }

  async note(trx: Db, requestId: string, move: Omit<ChangeMove, "at">): Promise<void> {
    await this.#table(trx, "history").insert({
      request_id: requestId,
      from_state: move.from,
      to_state: move.to,
      moved_by: move.by,
      note: move.note,
      forced: move.forced ? 1 : 0,
      at: trx.raw(this.#dialect.now),
    });
  }

  async decide(trx: Db, change: ChangeRequest, approval: Omit<ChangeApproval, "at">) {
    await this.#table(trx, "approvals").insert({
      request_id: change.requestId,
      revision: change.revision,
      module: approval.module,
      decision: approval.decision,
      decided_by: approval.by,
      note: approval.comment,
      decided_at: trx.raw(this.#dialect.now),
    });
  }

  async approvals(db: Db, { requestId, revision }: ChangeRequest): Promise<ChangeApproval[]> {
    const rows = (await this.#table(db, "approvals")
      .where({ request_id: requestId, revision })
      .orderBy("module")) as Row[];
    return rows.map((row) => ({
      module: String(row.module),
      decision: String(row.decision) as ChangeApproval["decision"],
      by: String(row.decided_by),
      comment: textOrNull(row.note),
      at: int(row.decided_at),
    }));
  }

  /** Stores how a module's tests went; a later report replaces an earlier one. The request is locked. */
  async report(trx: Db, change: ChangeRequest, report: Omit<ChangeReport, "at">): Promise<void> {
    const { requestId: request_id, revision } = change;
    const key = { request_id, revision, module: report.module };
    const { passed, failed, url, by: reported_by } = report;
    const values = { passed, failed, url, reported_by, reported_at: trx.raw(this.#dialect.now) };
    if ((await this.#table(trx, "reports").where(key).update(values)) > 0) return;
    await this.#table(trx, "reports").insert({ ...key, ...values });
  }

  /** What was tested is being changed again. */
  async forgetReports(trx: Db, { requestId, revision }: ChangeRequest): Promise<void> {
    await this.#table(trx, "reports").where({ request_id: requestId, revision }).del();
  }

  async reports(db: Db, { requestId, revision }: ChangeRequest): Promise<ChangeReport[]> {
    const rows = (await this.#table(db, "reports")
      .where({ request_id: requestId, revision })
      .orderBy("module")) as Row[];
    return rows.map((row) => ({
      module: String(row.module),
      passed: int(row.passed),
      failed: int(row.failed),
      url: textOrNull(row.url),
      by: String(row.reported_by),
      at: int(row.reported_at),
    }));
  }

  /** The last 1,000 moves, oldest first. */
  async history(db: Db, requestId: string): Promise<ChangeMove[]> {
    const rows = (await this.#table(db, "history")
      .where({ request_id: requestId })
      .orderBy("seq", "desc")
      .limit(1_000)) as Row[];
    return rows.reverse().map((row) => ({
      from: textOrNull(row.from_state) as ChangeState | null,
      to: String(row.to_state) as ChangeState,
      by: String(row.moved_by),
      note: textOrNull(row.note),
      forced: int(row.forced) === 1,
      at: int(row.at),
    }));
  }
}

function changeOf(row: Row): ChangeRequest {
  return {
    seq: int(row.seq),
    requestId: String(row.request_id),
    requestingAgent: String(row.requesting_agent),
    affectedModules: parseText(row.affected_modules) as string[],
    changeType: String(row.change_type) as ChangeRequest["changeType"],
    description: String(row.description),
    changes: parseText(row.changes) as Record<string, unknown>,
    impactAnalysis: parseText(row.impact_analysis) as ChangeRequest["impactAnalysis"],
    testingPlan: parseText(row.testing_plan) as ChangeRequest["testingPlan"],
    state: String(row.state) as ChangeState,
    revision: int(row.revision),
    createdAt: int(row.created_at),
    updatedAt: int(row.updated_at),
  };
}
