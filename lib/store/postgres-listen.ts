import type { Knex } from "knex";
import { query } from "./sql.ts";
import type { ListenCalls, WakeChannel } from "./wake-channel.ts";

/**
 * Sent by the application, after the commit of what it tells of and outside every transaction: NOTIFY takes a lock of
 * the whole server at commit. A wake-up is no data, and who would hear it ends with the server: it waits for no disk.
 * Only a lone send takes its wake-up along, as long as nobody has to wait for that lock (`Rides`).
 */
const SEND = `
  SELECT pg_notify(:channel, payload)
  FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unwritten,
    jsonb_array_elements_text(CAST(:payloads AS jsonb)) AS payload`;

/** Longer than any connection takes that will ever be made. */
const CONNECT_PATIENCE_MS = 15_000;

/** What is used of node-postgres' client. */
interface RawConnection {
  on(event: "notification", call: (message: { payload?: string }) => void): void;
  on(event: "error" | "end", call: () => void): void;
  query(text: string): Promise<unknown>;
  end(): Promise<void>;
  readonly connection?: { readonly stream?: { unref?(): void; destroy?(): void } };
}

interface PostgresClient {
  readonly config: { readonly connectionPool?: unknown };
  readonly connectionSettings?: object;
  acquireRawConnection(): Promise<RawConnection>;
}

/** The channel is named after the tables, so that installs in one database do not wake each other. */
export function postgresChannel(knex: Knex, prefix: string): WakeChannel {
  const channel = `${prefix}wake`;
  return {
    async send(payloads) {
      await query(knex, SEND, { channel, payloads: JSON.stringify(payloads) });
    },

    carried: (payload) => ({ channel, payload }),

    async listen(calls) {
      const connection = await connect(knex.client as PostgresClient);
      const close = () => shut(connection);
      try {
        watch(connection, calls);
        await connection.query(`LISTEN "${channel}"`);
      } catch (error) {
        close();
        throw error;
      }
      return { close };
    },
  };
}

function watch(connection: RawConnection, { heard, lost }: ListenCalls): void {
  let gone = false;
  const once = () => {
    if (!gone) lost();
    gone = true;
  };
  // Without a listener an "error" of the connection would end the process.
  connection.on("error", once);
  connection.on("end", once);
  connection.on("notification", ({ payload }) => heard(payload ?? ""));
  connection.connection?.stream?.unref?.();
}

/** A connection like those of the pool, but not in it: a pool would close it for being idle, or lend it out. */
async function connect(client: PostgresClient): Promise<RawConnection> {
  if (client.config.connectionPool !== undefined || client.connectionSettings === undefined) {
    throw new Error("this knex instance does not tell how to connect");
  }
  const connecting = client.acquireRawConnection();
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      connecting.then(shut, () => undefined);
      reject(new Error("no connection to listen on"));
    }, CONNECT_PATIENCE_MS).unref();
  });
  try {
    return await Promise.race([connecting, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

function shut(connection: RawConnection): void {
  const destroy = () => connection.connection?.stream?.destroy?.();
  connection.on("error", () => undefined);
  // A farewell to a server that does not answer would wait for ever.
  const timer = setTimeout(destroy, 1_000).unref();
  connection.end().then(
    () => clearTimeout(timer),
    () => destroy(),
  );
}
