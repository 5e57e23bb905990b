import { hostname } from "node:os";

let consumers = 0;

/** Who claims, when the caller names nobody: host, process and a number. */
export function newWorkerId(): string {
  const host = hostname()
    .replace(/[^\w.-]/g, "")
    .slice(0, 60);
  return `${host}:${process.pid}:${++consumers}`;
}
