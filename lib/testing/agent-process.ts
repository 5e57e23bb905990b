import type { Outbox } from "../outbox.ts";
import type { WorkHandler, WorkOptions } from "../queue/worker/worker.ts";
import type { TestProcess } from "./process.ts";
import type { World } from "./world.ts";

/** As for `outbox.runAgent`. */
export type TestAgentOptions = Parameters<Outbox["runAgent"]>[0];

type AnyHandler = TestAgentOptions["tasks"][string];
type TaskHandler = Extract<AnyHandler, (...given: never[]) => unknown>;
type Task = Parameters<TaskHandler>[0];
type TaskContext = Parameters<TaskHandler>[1];

/** Called instead of a task's handler; `run` is the handler. What it returns is the task's result. */
export type AroundTask = (
  task: Task,
  context: TaskContext,
  run: () => Promise<unknown>,
) => Promise<unknown>;

export async function startAgent(
  world: World,
  process: TestProcess,
  options: TestAgentOptions,
  around: AroundTask = (_task, _context, run) => run(),
): Promise<void> {
  const { onMessage } = options;
  const wrapped = (taskType: string, handler: TaskHandler): TaskHandler => {
    return (task, context) =>
      world.handle(process, `the task ${task.taskId} (${taskType})`, () =>
        twice(world, task.message.messageId, () =>
          around(task, context, async () => handler(task, waiting(context))),
        ),
      );
  };
  const tasks = Object.fromEntries(
    Object.entries(options.tasks).map(([taskType, handler]) => [
      taskType,
      typeof handler === "function"
        ? wrapped(taskType, handler)
        : timed(handler, (run) => wrapped(taskType, run)),
    ]),
  );
  process.runs(
    await process.outbox.runAgent({
      ...options,
      tasks,
      ...(onMessage === undefined ? {} : { onMessage: watched(world, process, onMessage) }),
    }),
  );
}

function timed(
  handler: { run?: TaskHandler },
  wrap: (run: TaskHandler) => TaskHandler,
): AnyHandler {
  const { run } = handler;
  return (run === undefined ? handler : { ...handler, run: wrap(run) }) as AnyHandler;
}

/** Who waits for others gives its place at once, as after a long wait: a new run starts when the answer is there. */
function waiting(context: TaskContext): TaskContext {
  return {
    ...context,
    requestInput: (question) => context.requestInput({ ...question, waitMs: 0 }),
    subtasks: (options) => context.subtasks({ ...options, waitMs: 0 }),
  };
}

export function startConsumer(
  world: World,
  process: TestProcess,
  handler: WorkHandler,
  options: WorkOptions,
): void {
  const { id, outbox } = process;
  process.runs(
    outbox.queue.work(id, watched(world, process, handler), {
      onError: () => undefined,
      ...options,
    }),
  );
}

function watched(world: World, process: TestProcess, handler: WorkHandler): WorkHandler {
  return (message, context) =>
    world.handle(process, `the message ${message.messageId} (${message.messageType})`, () =>
      twice(world, message.messageId, async () => handler(message, context)),
    );
}

/** Takes the message away from a run that is to lose it; where it was not settled by then, it comes again at once. */
async function twice<T>(world: World, messageId: string, run: () => Promise<T>): Promise<T> {
  if (!world.faults.duplicates(messageId)) return run();
  const { knex, prefix } = world.database;
  const row = () => knex(`${prefix}messages`).where({ message_id: messageId, state: 0 });
  await row().increment("receipt", 1);
  try {
    return await run();
  } finally {
    await row().update({ visible_at: world.time.now, worker_id: null });
  }
}
