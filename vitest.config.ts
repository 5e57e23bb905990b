import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/support/global-setup.ts"],
    setupFiles: ["test/support/exit-with-parent.ts"],
    // A process per file: sqlite3 is a native module, and the crash tests send signals.
    pool: "forks",
    // By default one on two cores, which is half of them: tests wait for databases and for processes of their own.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    // A guard against what hangs, no bound: those are in the tests. The longest takes a tenth of this on a quiet machine.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    teardownTimeout: 20_000,
    // Of `expect.poll`, which waits for what must come; a second by default.
    expect: { poll: { timeout: 60_000 } },
  },
});
