import type { Capability, FileTask, HashTask } from "./protocol.ts";
import type { FoundFile } from "./walk.ts";

export interface PlannedTask {
  /** Short and readable, because people meet it in the logs: `code-017`. */
  readonly taskId: string;
  readonly capability: Capability;
  readonly description: string;
  readonly parameters: FileTask | HashTask;
}

export interface Plan {
  readonly tasks: readonly PlannedTask[];
  /** The task in whose middle an agent is going to be killed. */
  readonly marked: PlannedTask;
}

/** Files that are hashed by one task. */
const HASHED_AT_ONCE = 20;

/** A task per file by its kind, and hashing in batches. */
export function planFor(files: readonly FoundFile[]): Plan {
  const numbers = new Map<Capability, number>();
  const idFor = (capability: Capability) => {
    const number = (numbers.get(capability) ?? 0) + 1;
    numbers.set(capability, number);
    return `${capability}-${String(number).padStart(3, "0")}`;
  };
  const tasks: PlannedTask[] = files.map(({ path, kind }) => ({
    taskId: idFor(kind),
    capability: kind,
    description: `${kind}: ${path}`.slice(0, 500),
    parameters: { path },
  }));
  for (let n = 0; n < files.length; n += HASHED_AT_ONCE) {
    const paths = files.slice(n, n + HASHED_AT_ONCE).map(({ path }) => path);
    tasks.push({
      taskId: idFor("hash"),
      capability: "hash",
      description: `hash: ${paths.length} files from ${paths[0]}`.slice(0, 500),
      parameters: { paths },
    });
  }
  return mark(tasks);
}

/** A third of the way, so that the agent dies while all are busy; code, where there is any. */
function mark(tasks: PlannedTask[]): Plan {
  const code = tasks.filter(({ capability }) => capability === "code");
  const candidates = code.length > 0 ? code : tasks;
  const chosen = candidates[Math.floor(candidates.length / 3)] as PlannedTask;
  const marked = { ...chosen, parameters: { ...chosen.parameters, marked: true } };
  return { tasks: tasks.map((task) => (task === chosen ? marked : task)), marked };
}

/** What a person would call the task. */
export function titleOf({ parameters }: Pick<PlannedTask, "parameters">): string {
  return "path" in parameters
    ? parameters.path
    : `the hashes of ${parameters.paths.length} files from ${parameters.paths[0]}`;
}
