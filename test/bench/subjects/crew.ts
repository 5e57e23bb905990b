import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { extname } from "node:path";

/** What a crew's processes are told and tell. */
export type ToMember = "work" | "stop" | "leave";
export type FromMember =
  | { readonly told: "ready" | "working" | "stopped" }
  | { readonly handled: number }
  | { readonly failed: string };

/** Worker processes of one subject, which drain together. */
export interface Crew {
  /** Handles this many messages; each is finished durably when it resolves, to the milliseconds it took. */
  drain(count: number): Promise<number>;
  close(): Promise<void>;
}

/** @param opener the name of the subject in OPENERS.postgres */
export async function openCrew(opener: string, url: string, size: number): Promise<Crew> {
  const members: ChildProcess[] = [];
  let handled = (_count: number) => {};
  let broken: Error | undefined;
  const fail = (error: Error) => {
    if (broken !== undefined) return;
    broken = error;
    handled(Number.POSITIVE_INFINITY);
    // Whoever waits for one of them looks again.
    for (const member of members) member.emit("message", { failed: error.message });
  };
  const hears = (member: ChildProcess, wanted: string) => {
    const heard = new Promise<void>((resolve, reject) => {
      const look = (message: FromMember) => {
        const told = "told" in message && message.told === wanted;
        if (!told && broken === undefined) return;
        member.off("message", look);
        if (told) resolve();
        else reject(broken);
      };
      member.on("message", look);
    });
    heard.catch(() => undefined);
    return heard;
  };
  const all = (order: ToMember, answer: string) => {
    const answers = members.map((member) => hears(member, answer));
    for (const member of members) member.send(order);
    return answers;
  };
  const close = async () => {
    for (const member of members) {
      if (member.connected) member.send("leave" satisfies ToMember);
      if (member.exitCode === null && member.signalCode === null) await once(member, "exit");
    }
  };

  // As this file is run, compiled or not, so is the program.
  const extension = extname(import.meta.filename);
  try {
    for (let n = 0; n < size; n++) {
      const member = fork(
        new URL(`./programs/crew-member${extname(import.meta.filename)}`, import.meta.url),
        [opener, url],
        {
          execArgv: extension === ".ts" ? ["--import", "tsx"] : [],
          stdio: ["ignore", "inherit", "inherit", "ipc"],
        },
      );
      members.push(member);
      member.on("message", (message: FromMember) => {
        if ("handled" in message) handled(message.handled);
        if ("failed" in message) fail(new Error(message.failed));
      });
      member.on("exit", (code) => {
        if (code !== 0) fail(new Error(`a worker process ended with ${code}`));
      });
      // One after another: some set up their tables.
      await hears(member, "ready");
    }
  } catch (error) {
    await close();
    throw error;
  }

  return {
    async drain(count) {
      let left = count;
      let reach = () => {};
      const reached = new Promise<void>((resolve) => {
        reach = resolve;
      });
      let since: number | undefined;
      handled = (some) => {
        since ??= performance.now();
        left -= some;
        if (left <= 0) reach();
      };
      // From when the first one works: how long they take to start is not what a drain is about.
      const working = all("work", "working");
      await Promise.race(working);
      since ??= performance.now();
      await reached;
      await Promise.all(working);
      await Promise.all(all("stop", "stopped"));
      handled = () => {};
      if (broken !== undefined) throw broken;
      return performance.now() - since;
    },
    close,
  };
}
