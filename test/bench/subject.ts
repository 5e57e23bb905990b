import { readFileSync } from "node:fs";
import { join } from "node:path";

/** What is measured is compiled, as users run it, into a folder below; the peers lie beside the sources. */
export const SOURCES = import.meta.dirname.replace(/[\\/]\.built[\\/].*$/, "");

/** Something that is measured: a queue with its best documented settings, or plain SQL as the ceiling. */
export interface Subject {
  readonly name: string;
  /**
   * What its numbers are compared as: "ceiling" is what the database can do at most, "guarantees" the same
   * guarantees by plain SQL, and "elsewhere" a queue on another kind of server, which is shown and counts nowhere.
   */
  readonly kind: "ours" | "peer" | "ceiling" | "guarantees" | "elsewhere";
  /** What a reader must know of its version and settings. */
  readonly settings: string;
  /** Stores one message, committed when it resolves. */
  send(payload: object): Promise<unknown>;
  /** Stores many in one statement or transaction. */
  sendMany(payloads: readonly object[]): Promise<unknown>;
  /**
   * Starts a worker with a handler that does nothing, and tells how many it handled. Resolves when it runs.
   * What it resolves to stops the worker, and resolves when everything handled is finished durably.
   */
  work(handled: (count: number) => void): Promise<() => Promise<void>>;
  /** Handles this many messages; each is finished durably when it resolves, to the milliseconds it took. */
  drain(count: number): Promise<number>;
  close(): Promise<void>;
}

/** Opens a subject on an empty database, or on one that the same subject has opened; throws where it cannot run. */
export type Opener = (url: string) => Promise<Subject>;

/** A subject that drains by its worker. */
export function draining(subject: Omit<Subject, "drain">): Subject {
  return {
    ...subject,
    async drain(count) {
      // How long a worker takes to start is not what a drain is about.
      let since: number | undefined;
      let left = count;
      const { reached, done } = countdown(1);
      if (count === 0) done();
      const stop = await subject.work((handled) => {
        since ??= performance.now();
        if (left > 0 && left <= handled) done();
        left -= handled;
      });
      since ??= performance.now();
      await reached;
      await stop();
      return performance.now() - since;
    },
  };
}

/** Runs `step` in so many loops until stopped; what a step returns is how many it handled. */
export function loops(
  many: number,
  step: () => Promise<number>,
  handled: (count: number) => void,
): () => Promise<void> {
  let stopped = false;
  const loop = async () => {
    while (!stopped) {
      const count = await step();
      if (count > 0) handled(count);
      else await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  const ended = Promise.all(Array.from({ length: many }, loop));
  // Nobody waits any longer for what a failed loop will not handle: who stops it hears why.
  ended.catch(() => handled(Number.POSITIVE_INFINITY));
  return async () => {
    stopped = true;
    await ended;
  };
}

/** Loads a peer without its types, which are not installed with the product. */
export async function peer<T>(name: string): Promise<T> {
  return (await import(name)) as T;
}

/** The installed version of a peer, with its name. */
export function versionOf(name: string): string {
  const file = join(SOURCES, "node_modules", name, "package.json");
  return `${name} ${(JSON.parse(readFileSync(file, "utf8")) as { version: string }).version}`;
}

/** Resolves when `done` was called that often. */
function countdown(count: number): { readonly reached: Promise<void>; done(): void } {
  let left = count;
  let reach = () => {};
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  if (count === 0) reach();
  return {
    reached,
    done: () => {
      left -= 1;
      if (left === 0) reach();
    },
  };
}
