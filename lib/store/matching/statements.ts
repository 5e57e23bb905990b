import type { DialectName } from "../dialect.ts";
import { mssql } from "./mssql.ts";
import { postgres } from "./postgres.ts";
import { sqlite } from "./sqlite.ts";
import type { MatchingStatements } from "./texts.ts";

const STATEMENTS: Record<DialectName, (prefix: string, now: string) => MatchingStatements> = {
  postgres,
  mssql,
  sqlite,
};

export function matchingStatements(
  name: DialectName,
  prefix: string,
  now: string,
): MatchingStatements {
  return STATEMENTS[name](prefix, now);
}
