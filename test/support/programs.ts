import { copyFileSync, existsSync, mkdirSync, symlinkSync } from "node:fs";
import { basename, join, relative, resolve } from "node:path";
import { buildSync } from "esbuild";
import { inject } from "vitest";

const built = new Map<string, string>();

/**
 * A TypeScript program as one file of JavaScript, made once for each file of tests. Node loads it in a third of the time
 * that it takes to compile and link the library's four hundred modules, and the tests start hundreds of processes.
 */
export function compiled(tsFile: string): string {
  const source = resolve(tsFile);
  let program = built.get(source);
  if (program === undefined) {
    program = join(folder(), place(source));
    buildSync({
      entryPoints: [source],
      outfile: program,
      bundle: true,
      packages: "external",
      platform: "node",
      format: "esm",
      target: "node20",
      sourcemap: "inline",
      logLevel: "error",
    });
    built.set(source, program);
  }
  return program;
}

/** As in the repository, for programs that start the one beside them. */
function place(source: string): string {
  const inside = relative(resolve("."), source);
  const path = inside.startsWith("..") ? `${built.size}-${basename(source)}` : inside;
  return path.replace(/\.ts$/, ".js");
}

/** One for this process, from which packages are found. */
function folder(): string {
  const path = join(inject("run").folder, `programs-${process.pid}`);
  if (!existsSync(path)) {
    mkdirSync(path);
    // The library asks for its version by its own name.
    copyFileSync("package.json", join(path, "package.json"));
    symlinkSync(resolve("node_modules"), join(path, "node_modules"), "dir");
  }
  return path;
}
