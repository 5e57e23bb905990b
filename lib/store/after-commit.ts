import type { Knex } from "knex";
import type { Db } from "./dialect.ts";
import { isTransaction } from "./sql.ts";

interface Waiting {
  readonly calls: (() => void)[];
  committed: boolean;
}

const waiting = new WeakMap<Knex.Transaction, Waiting>();

/** PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, and no error. */
function rolledBack(answer: unknown): boolean {
  const response = (answer as { response?: { command?: unknown } } | undefined)?.response;
  return response?.command === "ROLLBACK";
}

/**
 * Runs `call` once what was written through `db` is committed: at once outside a transaction, after the commit
 * inside one, never after a rollback. Inside a savepoint it waits for the outermost transaction.
 *
 * knex tells the end of a transaction only through `executionPromise`, which a rollback resolves as well, so
 * the transaction's own `commit` is watched too.
 */
export function afterCommit(db: Db, call: () => void): void {
  if (!isTransaction(db)) {
    call();
    return;
  }
  const known = waiting.get(db);
  if (known !== undefined) {
    known.calls.push(call);
    return;
  }
  const entry: Waiting = { calls: [call], committed: false };
  waiting.set(db, entry);
  const commit = db.commit.bind(db);
  db.commit = ((value?: unknown) =>
    // A promise of our own: for a savepoint on SQL Server, knex's commit returns nothing.
    Promise.resolve(commit(value) as unknown).then((answer) => {
      entry.committed = !rolledBack(answer);
      return answer;
    })) as typeof db.commit;
  const parent = (db as { parentTransaction?: Knex.Transaction }).parentTransaction;
  db.executionPromise.then(
    // A turn later, so that the watched commit above has answered.
    () =>
      setImmediate(() => {
        if (!entry.committed) return;
        for (const waitingCall of entry.calls) {
          if (parent === undefined) waitingCall();
          else afterCommit(parent, waitingCall);
        }
      }),
    () => undefined,
  );
}
