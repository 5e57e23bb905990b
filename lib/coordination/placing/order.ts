import { ValidationFailed } from "../../errors.ts";
import type { Submission } from "../submission.ts";

/**
 * New tasks so that each comes after those of them that it depends on, otherwise as they came.
 *
 * @throws ValidationFailed for two with one id, and for tasks that wait for each other
 */
export function inDependencyOrder(list: readonly Submission[]): Submission[] {
  const byId = new Map(list.map((one) => [one.row.task_id, one]));
  if (byId.size < list.length) {
    const ids = list.map(({ row }) => row.task_id);
    const twice = ids.find((id, n) => ids.indexOf(id) !== n);
    throw new ValidationFailed(`tasks: the id "${twice}" is there twice`);
  }
  const done = new Set<Submission>();
  const ordered: Submission[] = [];
  for (const first of list) {
    // A stack of our own: a chain may be as long as the list.
    const path: { one: Submission; next: number }[] = [{ one: first, next: 0 }];
    const onPath = new Set([first]);
    while (path.length > 0) {
      const top = path.at(-1) as { one: Submission; next: number };
      const needed = done.has(top.one) ? undefined : top.one.dependsOn[top.next++];
      if (needed === undefined) {
        if (!done.has(top.one)) ordered.push(top.one);
        done.add(top.one);
        onPath.delete(top.one);
        path.pop();
        continue;
      }
      const one = byId.get(needed);
      if (one === undefined || done.has(one)) continue;
      if (onPath.has(one)) {
        throw new ValidationFailed(`tasks: "${needed}" depends on itself, by way of others`, {
          details: { path: path.map(({ one: { row } }) => row.task_id) },
        });
      }
      onPath.add(one);
      path.push({ one, next: 0 });
    }
  }
  return ordered;
}
