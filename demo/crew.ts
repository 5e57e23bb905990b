import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import { AGENTS, type Command, type Signal, type StartCommand } from "./protocol.ts";

/** How long a worker may take to start; a slow machine compiles TypeScript first. */
const START_MS = 30_000;
const STOP_MS = 5_000;

/** The worker beside this file: TypeScript in development, JavaScript once compiled. */
const PROGRAM = fileURLToPath(
  extname(import.meta.url) === ".ts"
    ? new URL("./worker.ts", import.meta.url)
    : new URL("./worker.js", import.meta.url),
);

/** A worker in a process of its own. */
class Member {
  readonly agentId: string;
  readonly child: ChildProcess;
  errors = "";

  constructor(agentId: string) {
    this.agentId = agentId;
    // Quiet by design: what a worker has to say is in the database and in the logs.
    this.child = fork(PROGRAM, [], { stdio: ["ignore", "ignore", "pipe", "ipc"] });
    this.child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.errors = (this.errors + text).slice(-4_000);
    });
    // Sending to a process that has just died fails; `exit` tells all there is to know.
    this.child.on("error", () => {});
  }

  get alive(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  send(command: Command): void {
    if (this.child.connected) this.child.send(command, () => {});
  }
}

export interface CrewEvents {
  /** An agent is in the middle of the marked task. */
  inside(agentId: string, taskId: string): void;
  /** A process ended that nobody had asked to end. */
  lost(agentId: string, why: string): void;
}

/** The worker processes, from their start to their end. */
export class Crew {
  readonly #members: readonly Member[];
  readonly #ended = new Set<string>();
  readonly #events: CrewEvents;

  constructor(events: CrewEvents) {
    this.#events = events;
    this.#members = Object.keys(AGENTS).map((agentId) => new Member(agentId));
  }

  /** Resolves when every worker waits for tasks. @throws Error when one cannot */
  async start(command: Omit<StartCommand, "type" | "agentId" | "capabilities">): Promise<void> {
    await Promise.all(this.#members.map((member) => this.#startMember(member, command)));
  }

  async #startMember(
    member: Member,
    command: Omit<StartCommand, "type" | "agentId" | "capabilities">,
  ): Promise<void> {
    const { agentId, child } = member;
    let timer: NodeJS.Timeout | undefined;
    const ready = new Promise<void>((resolve, reject) => {
      const fail = (why: string) => reject(new Error(`the worker process of ${agentId} ${why}`));
      timer = setTimeout(() => fail(`did not start within ${START_MS / 1_000} s`), START_MS);
      child.on("message", (message) => {
        const signal = message as Signal;
        if (signal.type === "inside") this.#events.inside(agentId, signal.taskId);
        else if (signal.type === "failed") fail(`failed: ${signal.message}`);
        else resolve();
      });
      child.once("exit", (code, signal) => fail(reasonOf(member, code, signal)));
    });
    const capabilities = AGENTS[agentId] ?? [];
    member.send({ type: "start", agentId, capabilities, ...command });
    await ready.finally(() => clearTimeout(timer));
    child.on("exit", (code, signal) => {
      if (!this.#ended.has(agentId)) this.#events.lost(agentId, reasonOf(member, code, signal));
    });
  }

  get someoneLives(): boolean {
    return this.#members.some(({ alive }) => alive);
  }

  goOn(agentId: string, taskId: string): void {
    this.#member(agentId)?.send({ type: "go on", taskId });
  }

  /** Ends a worker as a power cut would: it can neither finish nor say goodbye. */
  kill(agentId: string): void {
    this.#ended.add(agentId);
    this.#member(agentId)?.child.kill("SIGKILL");
  }

  /** Lets the workers finish what they are at; those that cannot are killed. */
  async stop(): Promise<void> {
    await Promise.all(
      this.#members.map(async (member) => {
        this.#ended.add(member.agentId);
        if (!member.alive) return;
        const exited = once(member.child, "exit");
        member.send({ type: "stop" });
        const timer = setTimeout(() => member.child.kill("SIGKILL"), STOP_MS);
        await exited;
        clearTimeout(timer);
      }),
    );
  }

  /** At once, without waiting for anything: for when this process itself ends. */
  killAll(): void {
    for (const { agentId, child } of this.#members) {
      this.#ended.add(agentId);
      child.kill("SIGKILL");
    }
  }

  #member(agentId: string): Member | undefined {
    return this.#members.find((member) => member.agentId === agentId);
  }
}

function reasonOf(member: Member, code: number | null, signal: string | null): string {
  const said =
    member.errors
      .trim()
      .split("\n")
      .find((line) => /error/i.test(line)) ?? "";
  const how = signal === null ? `ended with code ${code}` : `was killed (${signal})`;
  return said === "" ? how : `${how}: ${said.trim()}`;
}
