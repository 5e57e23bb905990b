import type { Knex } from "knex";
import type { Db } from "./dialect.ts";
import { isTransaction } from "./sql.ts";

interface Waiting {
  readonly calls: (() => void)[];
  committed: boolean;
}

const waiting = new WeakMap<Knex.Transaction, Waiting>();

/** Committed, and about to be told. */
const telling = new Set<Promise<void>>();

/** PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, and no error. */
function rolledBack(answer: unknown): boolean {
  const response = (answer as { response?: { command?: unknown } } | undefined)?.response;
  return response?.command === "ROLLBACK";
}

/**
 * Follows a transaction to its end. knex tells that only through `executionPromise`, which a rollback resolves
 * as well, so the transaction's own `commit` is watched too; that of the transactions around a savepoint from
 * now on, because the savepoint may be the last thing in them.
 */
function watched(trx: Knex.Transaction): Waiting {
  const known = waiting.get(trx);
  if (known !== undefined) return known;
  const entry: Waiting = { calls: [], committed: false };
  waiting.set(trx, entry);
  const parent = (trx as { parentTransaction?: Knex.Transaction }).parentTransaction;
  const outer = parent === undefined ? undefined : watched(parent);
  const commit = trx.commit.bind(trx);
  trx.commit = ((value?: unknown) =>
    // A promise of our own: for a savepoint on SQL Server, knex's commit returns nothing.
    Promise.resolve(commit(value) as unknown).then((answer) => {
      entry.committed = !rolledBack(answer);
      return answer;
    })) as typeof trx.commit;
  trx.executionPromise.then(
    () => {
      // A turn later, so that the watched commit above has answered.
      const told = new Promise<void>((resolve) => {
        setImmediate(() => {
          try {
            if (!entry.committed) return;
            if (outer !== undefined) outer.calls.push(...entry.calls);
            else for (const call of entry.calls) call();
          } finally {
            telling.delete(told);
            resolve();
          }
        });
      });
      telling.add(told);
    },
    () => undefined,
  );
  return entry;
}

/**
 * Runs `call` once what was written through `db` is committed: at once outside a transaction, after the commit
 * inside one, never after a rollback. Inside a savepoint it waits for the outermost transaction.
 */
export function afterCommit(db: Db, call: () => void): void {
  if (isTransaction(db)) watched(db).calls.push(call);
  else call();
}

/** Resolves when everything that has committed so far was told. */
export async function told(): Promise<void> {
  do {
    await new Promise((resolve) => setImmediate(resolve));
    await Promise.all(telling);
  } while (telling.size > 0);
}
