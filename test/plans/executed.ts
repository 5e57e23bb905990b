import type { Knex } from "knex";
import { isData } from "../support/plans.ts";

/** A step of a plan as PostgreSQL tells it. */
export interface Step {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Actual Rows": number;
  readonly "Actual Loops": number;
  readonly "Rows Removed by Filter"?: number;
  readonly "Rows Removed by Index Recheck"?: number;
  readonly "Shared Hit Blocks": number;
  readonly "Shared Read Blocks": number;
  readonly "Temp Written Blocks": number;
  readonly Plans?: readonly Step[];
}

/** A statement with the plan that it was run by. */
export interface Executed {
  readonly sql: string;
  readonly plan: Step;
}

type Answer = (
  error: Error | null,
  result?: { rows: { "QUERY PLAN": { Plan: Step }[] }[] },
) => void;

interface Connection {
  readonly connection?: { sendCopyFromChunk: unknown };
  query(config: { text: string; values?: unknown[] }, answer: Answer): unknown;
}

/**
 * The plans of what a PostgreSQL driver is given, each as it was really executed: on the same connection and with the
 * same rows before it, in a transaction, or up to a savepoint, that is rolled back before the statement itself runs.
 */
export class Explained {
  readonly #executed: Executed[] = [];
  #listening = false;

  /** Of a knex that has not connected yet. */
  constructor(knex: Knex) {
    const client = knex.client as { acquireRawConnection(): Promise<Connection> };
    const acquire = client.acquireRawConnection.bind(client);
    client.acquireRawConnection = async () => this.#watch(await acquire());
  }

  async during(run: () => Promise<unknown>): Promise<Executed[]> {
    this.#listening = true;
    await run().finally(() => {
      this.#listening = false;
    });
    return this.#executed.splice(0);
  }

  #watch(connection: Connection): Connection {
    // A COPY has no plan: what is sent together is inserted here, as it is where the driver has none.
    if (connection.connection !== undefined) connection.connection.sendCopyFromChunk = undefined;
    const query = connection.query.bind(connection);
    const ask = (text: string, values: unknown[] = []) =>
      new Promise<Parameters<Answer>[1]>((resolve, reject) => {
        query({ text, values }, (error, result) => (error ? reject(error) : resolve(result)));
      });
    let open = false;
    connection.query = (config, answer) => {
      const { text, values } = config;
      if (/^\s*BEGIN/i.test(text)) open = true;
      if (/^\s*(COMMIT|ROLLBACK)\s*;?\s*$/i.test(text)) open = false;
      const ours = this.#listening && isData(text) && /outbox_/.test(text);
      if (!ours) return query(config, answer);
      const [before, after] = open
        ? ["SAVEPOINT explained", "ROLLBACK TO SAVEPOINT explained"]
        : ["BEGIN", "ROLLBACK"];
      const explain = async () => {
        await ask(before);
        try {
          const options = "ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF, FORMAT JSON";
          const result = await ask(`EXPLAIN (${options}) ${text}`, values);
          const plan = result?.rows[0]?.["QUERY PLAN"][0]?.Plan;
          if (plan !== undefined) this.#executed.push({ sql: text, plan });
        } finally {
          await ask(after);
        }
      };
      explain().then(
        () => query(config, answer),
        // What fails here fails there too, as the caller has to see it.
        () => query(config, answer),
      );
      return undefined;
    };
    return connection;
  }
}

export function stepsOf(plan: Step): Step[] {
  return [plan, ...(plan.Plans ?? []).flatMap(stepsOf)];
}

/** Rows that a step looked at, whether it kept them or not. */
export function rowsRead(step: Step): number {
  const each =
    step["Actual Rows"] +
    (step["Rows Removed by Filter"] ?? 0) +
    (step["Rows Removed by Index Recheck"] ?? 0);
  return Math.round(each * step["Actual Loops"]);
}

export function buffers(plan: Step): number {
  return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"];
}

/** The plan in a few words per step, for the message of a failure. */
export function shown(step: Step, depth = 0): string {
  const about = [
    step["Node Type"],
    step["Relation Name"],
    step["Index Name"],
    `rows ${step["Actual Rows"]} x ${step["Actual Loops"]}`,
    `removed ${step["Rows Removed by Filter"] ?? 0}`,
    `buffers ${buffers(step)}`,
  ];
  const line = "  ".repeat(depth) + about.filter((part) => part !== undefined).join(" ");
  return [line, ...(step.Plans ?? []).map((inner) => shown(inner, depth + 1))].join("\n");
}
