// Reads the reports of the tests for .ci/run: node .ci/tests.mjs WHAT FIRST [AGAIN]
// FIRST tells of all tests, AGAIN, where it is there, of the files that failed and were tried once more.
import { existsSync, readFileSync } from "node:fs";
import { relative } from "node:path";

const [what, first, again] = process.argv.slice(2);
const before = read(first);
const after = again !== undefined && existsSync(again) ? read(again) : new Map();
const tests = [...before].map(([key, test]) => ({ ...test, again: after.get(key) }));
// A file that fails as a whole is no test: it fails the step.
const failed = tests.filter((test) => !test.passed && test.again?.passed !== true);
const unsteady = tests.filter((test) => !test.passed && test.again?.passed === true);

const answers = {
  /** The files to try once more. */
  files: () => [...new Set(tests.filter((test) => !test.passed).map(({ file }) => file))],
  /** How many tests passed, and how many failed. */
  count: () => {
    const real = tests.filter((test) => !test.whole);
    const lost = real.filter((test) => failed.includes(test)).length;
    return [`${real.length - lost} ${lost}`];
  },
  failed: () => failed.flatMap(paragraph),
  /** Those that passed only when they were tried again. */
  unsteady: () => unsteady.flatMap(paragraph),
};
for (const line of answers[what]()) console.log(line);

/** Tests that ran, by file and name; of several with one name each has its own. */
function read(path) {
  const found = new Map();
  for (const { name, status, message, assertionResults } of JSON.parse(readFileSync(path))
    .testResults) {
    const file = relative(process.cwd(), name);
    if (status === "failed" && assertionResults.every((test) => test.status !== "failed")) {
      found.set(file, { file, title: file, passed: false, whole: true, said: message });
    }
    for (const test of assertionResults) {
      if (test.status !== "passed" && test.status !== "failed") continue;
      const title = `${file}: ${test.fullName}`;
      const passed = test.status === "passed";
      let key = title;
      while (found.has(key)) key += "'";
      found.set(key, { file, title, passed, said: test.failureMessages.join("\n") });
    }
    // Nothing of the file failed: that is what becomes of one that failed as a whole.
    if (status === "passed") found.set(file, { file, title: file, passed: true, whole: true });
  }
  return found;
}

/** The file, the test, and the beginning of what it said. */
function paragraph({ title, said }) {
  const beginning = (said ?? "").split("\n").slice(0, 12);
  return [`  ${title}`, ...beginning.map((line) => `      ${line.slice(0, 200)}`)];
}
