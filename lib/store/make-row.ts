import type { Db, DialectName } from "./dialect.ts";
import { query, type Row } from "./sql.ts";

/** Locks a row until the transaction ends, and makes it first where it is not there. Nobody else makes it twice. */
export type LockOrMake = (trx: Db, key: Readonly<Record<string, string>>) => Promise<Row>;

interface Shape {
  readonly table: string;
  readonly keys: readonly string[];
  /** A column that is no key: the lock is a write that changes nothing. */
  readonly idle: string;
  readonly columns: readonly string[];
  /** What a new row begins with: SQL by column. */
  readonly fresh: Readonly<Record<string, string>>;
}

const names = ({ keys, fresh }: Shape) => [...keys, ...Object.keys(fresh)].join(", ");
const values = ({ keys, fresh }: Shape) =>
  [...keys.map((key) => `:${key}`), ...Object.values(fresh)].join(", ");

function upserting(shape: Shape): LockOrMake {
  const { table, keys, idle, columns } = shape;
  const text = `
    INSERT INTO ${table} AS t (${names(shape)}) VALUES (${values(shape)})
    ON CONFLICT (${keys.join(", ")}) DO UPDATE SET ${idle} = t.${idle}
    RETURNING ${columns.join(", ")}`;
  return async (trx, key) => {
    const [row] = await query(trx, text, key);
    return row as Row;
  };
}

function mssql(shape: Shape): LockOrMake {
  const { table, keys, idle, columns } = shape;
  const out = columns.map((column) => `inserted.${column}`).join(", ");
  const same = keys.map((key) => `${key} = :${key}`).join(" AND ");
  // Differs from PostgreSQL: no ON CONFLICT. HOLDLOCK keeps the place of a missing row.
  const lock = `UPDATE ${table} WITH (UPDLOCK, ROWLOCK) SET ${idle} = ${idle} OUTPUT ${out} WHERE ${same}`;
  const make = `
    INSERT INTO ${table} (${names(shape)}) OUTPUT ${out}
    SELECT ${values(shape)}
    WHERE NOT EXISTS (SELECT 1 FROM ${table} WITH (UPDLOCK, HOLDLOCK, ROWLOCK) WHERE ${same})`;
  return async (trx, key) => {
    for (const text of [lock, make, lock]) {
      const [row] = await query(trx, text, key);
      if (row !== undefined) return row;
    }
    throw new Error(`the row of ${table} was deleted while it was made`);
  };
}

const MAKERS: Record<DialectName, (shape: Shape) => LockOrMake> = {
  postgres: upserting,
  sqlite: upserting,
  mssql,
};

export function lockOrMake(name: DialectName, shape: Shape): LockOrMake {
  return MAKERS[name](shape);
}
