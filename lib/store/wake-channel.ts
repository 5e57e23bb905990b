import type { Knex } from "knex";
import type { Dialect, DialectName, WakeUp } from "./dialect.ts";
import { postgresChannel } from "./postgres-listen.ts";
import { sqliteChannel } from "./sqlite-watch.ts";

export interface ListenCalls {
  /** Called with each payload that anyone sent. */
  readonly heard: (payload: string) => void;
  /** Called once, when the connection is gone. */
  readonly lost: () => void;
}

/** A database's own way to tell other processes something at once. Nothing may depend on its arrival. */
export interface WakeChannel {
  /** Whoever listens hears, without a connection that might fall silent: no message to oneself is needed. */
  readonly untested?: true;
  /** Sends payloads to all who listen, this process included. */
  send(payloads: readonly string[]): Promise<void>;
  /** A payload for the statement that stores what it tells of, where a statement can take it along. */
  carried?(payload: string): WakeUp;
  /** Listens on a connection of its own, outside the pool, that never keeps the process alive. */
  listen(calls: ListenCalls): Promise<{ close(): void }>;
}

/** SQL Server has no such thing without a broker to set up: it is polled. */
const CHANNELS: Record<DialectName, (knex: Knex, prefix: string) => WakeChannel | undefined> = {
  postgres: postgresChannel,
  mssql: () => undefined,
  sqlite: sqliteChannel,
};

export function wakeChannel(knex: Knex, dialect: Dialect, prefix: string): WakeChannel | undefined {
  return CHANNELS[dialect.name](knex, prefix);
}
