/** Something that is measured: a queue with its best documented settings, or plain SQL as the ceiling. */
export interface Subject {
  readonly name: string;
  /** What a reader must know of its settings. */
  readonly settings: string;
  /** Stores one message, committed when it resolves. */
  send(payload: object): Promise<unknown>;
  /** Stores many in one statement or transaction. */
  sendMany(payloads: readonly object[]): Promise<unknown>;
  /** Handles this many messages with a handler that does nothing; each is finished durably when it resolves. */
  drain(count: number): Promise<void>;
  close(): Promise<void>;
}

/** Opens a subject on an empty database; undefined, with the reason told, where it cannot run here. */
export type Opener = (url: string) => Promise<Subject>;

/** Loads a peer without its types, which are not installed with the product. */
export async function peer<T>(name: string): Promise<T> {
  return (await import(name)) as T;
}

/** Resolves when `done` was called that often. */
export function countdown(count: number): { readonly reached: Promise<void>; done(): void } {
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
