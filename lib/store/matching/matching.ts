import type { Knex } from "knex";
import type { MatchingStrategy } from "../../protocol/agents.ts";
import { type Needs, requirementText } from "../../protocol/capabilities.ts";
import type { Db, Dialect } from "../dialect.ts";
import { int, query, type Row, translated } from "../sql.ts";
import { matchingStatements } from "./statements.ts";
import { testsOf } from "./tests.ts";
import type { MatchingStatements, Wanted } from "./texts.ts";

/** An agent that can take a task now. */
export interface Candidate {
  readonly agentId: string;
  /** Slots that its tasks do not use. */
  readonly free: number;
  readonly maxConcurrentTasks: number;
  /** The part of its slots that its tasks use, 0 to 1. */
  readonly load: number;
  /** The sum of the weights of the preferences that it meets. */
  readonly score: number;
  readonly deprecated: boolean;
  readonly lastAssignedAt: number;
  /** Another one as soon as it says something else of itself, such as other capabilities. */
  readonly cardHash: string | null;
  /** It gets nothing while an agent that it depends on is away. */
  readonly leans: boolean;
}

export interface CandidateOptions {
  readonly limit: number;
  /** How many free slots it must have. Default 1. */
  readonly cost?: number | undefined;
  /** Default "leastLoaded". */
  readonly strategy?: MatchingStrategy | undefined;
  /** For "sticky": who last had a task of this context comes first. */
  readonly contextId?: string | null | undefined;
  readonly exclude?: readonly string[] | undefined;
  /** Also agents in development. Default false. */
  readonly includeDevelopment?: boolean | undefined;
}

/** How far a set of requirements gets, and with how many agents. */
export interface Census {
  /** All that are registered. */
  readonly agents: number;
  /** How many meet each requirement. */
  readonly requirements: readonly { readonly text: string; readonly agents: number }[];
  /** How many meet all of them. */
  readonly capable: number;
  /** Of those: how many beat and are not offline. */
  readonly alive: number;
  /** Of those: how many take tasks at all: do not drain, nor wait for an agent that they depend on. */
  readonly taking: number;
  /** Of those: how many have room. */
  readonly free: number;
}

/** Finds who can do what. Every answer is that of one statement, which sees one moment. */
export class Matching {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #agents: string;
  readonly #statements: MatchingStatements;
  readonly #texts = new Map<string, string>();

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#agents = `${prefix}agents`;
    this.#statements = matchingStatements(dialect.name, prefix, dialect.now);
  }

  /** Agents that meet all requirements and have room, the best first. */
  async candidates(
    db: Db | undefined,
    needs: Needs,
    options: CandidateOptions,
  ): Promise<Candidate[]> {
    const { limit, cost = 1, strategy = "leastLoaded", contextId, exclude = [] } = options;
    const required = needs.required.length > 0;
    const sticky = strategy === "sticky" && contextId !== undefined && contextId !== null;
    const text = this.#candidates({
      required,
      preferred: needs.preferred.length > 0,
      strategy: strategy === "sticky" && !sticky ? "leastLoaded" : strategy,
    });
    return translated(this.#dialect, async () => {
      const rows = await query(db ?? this.#knex, text, {
        tests: testsOf(needs),
        needed: needs.required.length,
        limit,
        cost,
        exclude: JSON.stringify(exclude),
        context: sticky ? contextId : null,
        development: options.includeDevelopment === true ? 1 : 0,
      });
      return rows.map(candidateOf);
    });
  }

  #candidates(wanted: Wanted): string {
    const key = `${wanted.strategy} ${wanted.required} ${wanted.preferred}`;
    const text = this.#texts.get(key) ?? this.#statements.candidates(wanted);
    this.#texts.set(key, text);
    return text;
  }

  /** Why nobody takes a task: how many agents are left after each of the conditions. */
  async census(
    db: Db | undefined,
    needs: Needs,
    cost = 1,
    { includeDevelopment = false }: { readonly includeDevelopment?: boolean } = {},
  ): Promise<Census> {
    const at = db ?? this.#knex;
    const required = { required: needs.required, preferred: [] };
    const tests = testsOf(required);
    return translated(this.#dialect, async () => {
      const all = (await at(this.#agents)
        .whereNot("status", "removed")
        .count({ agents: "*" })
        .first()) as Row | undefined;
      const passing =
        needs.required.length === 0 ? [] : await query(at, this.#statements.passing, { tests });
      const by = new Map(passing.map((row) => [int(row.n), int(row.agents)]));
      const [figures] = await query(at, this.#statements.census(needs.required.length > 0), {
        tests,
        needed: needs.required.length,
        cost,
        development: includeDevelopment ? 1 : 0,
      });
      return {
        agents: int(all?.agents ?? 0),
        requirements: needs.required.map((it, n) => ({
          text: requirementText(it),
          agents: by.get(n) ?? 0,
        })),
        capable: int(figures?.capable ?? 0),
        alive: int(figures?.alive ?? 0),
        taking: int(figures?.taking ?? 0),
        free: int(figures?.free ?? 0),
      };
    });
  }
}

function candidateOf(row: Row): Candidate {
  const most = int(row.max_concurrent_tasks);
  return {
    agentId: String(row.agent_id),
    free: int(row.free),
    maxConcurrentTasks: most,
    load: most === 0 ? 1 : int(row.used) / most,
    score: Number(row.score),
    deprecated: row.lifecycle === "deprecated",
    lastAssignedAt: int(row.last_assigned_at),
    cardHash: row.card_hash === null ? null : String(row.card_hash),
    leans: int(row.leans) === 1,
  };
}
