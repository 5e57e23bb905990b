#!/usr/bin/env node
import { EXIT, exitOfSignal } from "./exit-codes.ts";
import { run } from "./run.ts";

const stop = new AbortController();
let pipeClosed = false;

/** The first asks the command to end; the second ends it. */
function onSignal(name: NodeJS.Signals): void {
  if (stop.signal.aborted) {
    if (process.stderr.isTTY) process.stderr.write("\n");
    process.exit(exitOfSignal(stop.signal));
  }
  stop.abort(name);
}
process.on("SIGINT", onSignal);
process.on("SIGTERM", onSignal);
process.on("SIGHUP", onSignal);

// `agent-outbox stats --watch | head`: the reader has what it wanted, and that is no error.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    pipeClosed = true;
    stop.abort();
  });
}

const code = await run(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  stdin: process.stdin,
  signal: stop.signal,
});
// Writing nothing calls back when all that was written before is out. What may still hold the process (a
// connection attempt that Ctrl-C gave up) must not.
const end = (): never => process.exit(pipeClosed ? EXIT.OK : code);
if (pipeClosed) end();
process.stdout.write("", end);
