/** What the main process and its workers tell each other, beside the messages in the database. */
import type { CodeFacts } from "./analysis/code.ts";
import type { HashedFile, Inventory } from "./analysis/inventory.ts";
import type { JsonFacts } from "./analysis/json.ts";
import type { BrokenLink } from "./analysis/links.ts";
import type { OutlineEntry } from "./analysis/markdown.ts";
import type { TextFacts } from "./analysis/text.ts";

/** The capabilities overlap, so that there is somebody to take over from whoever dies. */
export const AGENTS: Readonly<Record<string, readonly Capability[]>> = {
  ada: ["code", "text", "inventory"],
  bob: ["code", "markdown", "json"],
  cleo: ["markdown", "json", "text", "hash"],
  dan: ["code", "hash", "inventory"],
};

export type Capability = "code" | "markdown" | "json" | "text" | "hash" | "inventory";

/** How many tasks an agent has at once. More than one, so that it is never idle while messages travel. */
export const TASKS_AT_ONCE = 6;

/**
 * An agent that misses three heartbeats counts as lost: here after 2.4 s, because people wait for it. Less would
 * take living agents on a busy machine for dead; the default is 90 s.
 */
export const HEARTBEAT_MS = 800;

export interface StartCommand {
  readonly type: "start";
  readonly agentId: string;
  readonly capabilities: readonly Capability[];
  readonly database: string;
  readonly prefix: string;
  readonly logs: string;
  /** The folder whose files are analysed. */
  readonly root: string;
}

export type Command =
  | StartCommand
  /** The answer to `inside`: this time it may go on. */
  | { readonly type: "go on"; readonly taskId: string }
  | { readonly type: "stop" };

export type Signal =
  | { readonly type: "ready" }
  /** In the middle of the marked task, which has been begun and not ended. */
  | { readonly type: "inside"; readonly taskId: string }
  | { readonly type: "failed"; readonly message: string };

/** The parameters of a task. */
export interface FileTask {
  readonly path: string;
  /** The task that the demo watches: its agent reports when it is in the middle of it. */
  readonly marked?: boolean;
}

export interface HashTask {
  readonly paths: readonly string[];
  readonly marked?: boolean;
}

export interface InventoryTask {
  readonly files: readonly HashedFile[];
}

export interface MarkdownFacts {
  readonly headings: number;
  readonly outline: readonly OutlineEntry[];
  readonly fences: Readonly<Record<string, number>>;
  readonly relativeLinks: number;
  readonly linksElsewhere: number;
  readonly brokenLinks: number;
  /** The first of them. */
  readonly broken: readonly BrokenLink[];
}

/** What the tasks return, by capability. */
export interface Facts {
  readonly code: CodeFacts;
  readonly markdown: MarkdownFacts;
  readonly json: JsonFacts;
  readonly text: TextFacts;
  readonly hash: { readonly files: readonly HashedFile[] };
  readonly inventory: Inventory;
}

/** A file can go away, or be closed to this user, between the walk and its task: that is a finding too. */
export interface Unreadable {
  readonly unreadable: string;
}

export type TaskResult<C extends Capability = Capability> = {
  /** How long the agent worked on it, in milliseconds. */
  readonly workMs: number;
} & (Facts[C] | Unreadable);
