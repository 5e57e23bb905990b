import { AgentCommunicationError } from "../errors.ts";
import type { Dialect, DialectName } from "./dialect.ts";
import { mssql } from "./mssql.ts";
import { postgres } from "./postgres.ts";
import { sqlite } from "./sqlite.ts";

const FACTORIES: Record<DialectName, (prefix: string, prepare: boolean) => Dialect> = {
  postgres,
  mssql,
  sqlite,
};
const made = new Map<string, Dialect>();

/** The dialect's statements for tables with this prefix, made once. `prepare`: as the option of queues. */
export function dialectFor(name: DialectName, prefix: string, prepare = true): Dialect {
  // The prefix is the only thing that is ever written into statement text.
  if (!/^[a-z_][a-z0-9_]{0,30}$/.test(prefix)) {
    throw new AgentCommunicationError(
      "INVALID_CONFIGURATION",
      `the table prefix ${JSON.stringify(prefix)} is not made of 1 to 31 of a-z, 0-9 and _`,
      { recoverySuggestion: 'Use a prefix such as "outbox_".' },
    );
  }
  const key = `${name}:${prefix}:${prepare}`;
  let dialect = made.get(key);
  if (dialect === undefined) {
    dialect = FACTORIES[name](prefix, prepare);
    made.set(key, dialect);
  }
  return dialect;
}
