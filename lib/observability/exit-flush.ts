/** Gives whoever still holds something in memory a last chance to write it when the process exits. */

interface HoldsLines {
  /** Runs while the process exits: only calls that block get anything done. */
  exit(): void;
}

const holders = new Set<HoldsLines>();
let listening = false;

/** All share one listener: Node warns of a leak when each of eleven adds its own. */
export function flushAtExit(holder: HoldsLines): void {
  holders.add(holder);
  if (listening) return;
  listening = true;
  process.on("exit", () => {
    for (const each of holders) each.exit();
  });
}

export function forgetAtExit(holder: HoldsLines): void {
  holders.delete(holder);
}
