import { z } from "zod";
import { id, plainText } from "./validate.ts";

/** Each state with those that may follow it: the database enforces it. What is amended is submitted again. */
export const CHANGE_MOVES = {
  draft: ["submitted", "withdrawn"],
  submitted: ["in_review", "withdrawn"],
  in_review: ["approved", "rejected", "withdrawn", "submitted"],
  approved: ["implementing", "withdrawn", "submitted"],
  rejected: ["submitted"],
  implementing: ["testing", "withdrawn"],
  testing: ["implementing", "completed", "withdrawn"],
  completed: [],
  withdrawn: [],
} as const satisfies Record<string, readonly string[]>;

export type ChangeState = keyof typeof CHANGE_MOVES;
const CHANGE_STATES = Object.keys(CHANGE_MOVES) as [ChangeState, ...ChangeState[]];

/** The states that a state may follow. */
export function statesBefore(to: ChangeState): ChangeState[] {
  return CHANGE_STATES.filter((from) => (CHANGE_MOVES[from] as readonly string[]).includes(to));
}

/** Where what is proposed may still be changed. */
export const AMENDABLE: readonly ChangeState[] = [
  "draft",
  "submitted",
  ...statesBefore("submitted").filter((state) => state !== "draft"),
];

/** The parts of a request's id are joined with it: short enough that a number fits behind. */
export const moduleName = id.max(64, "expected at most 64 characters");
export const changeNote = plainText(4_096).optional();
export const forceReason = plainText(1_024).min(1, "expected a reason").optional();
const names = z.array(plainText(256)).max(200).default([]);

export const changeRequestSchema = z.strictObject({
  requestingAgent: id,
  /** Each of them decides; 1 to 50. */
  affectedModules: z
    .array(moduleName)
    .min(1, "expected at least one module")
    .max(50, "expected at most 50 modules")
    .transform((list) => [...new Set(list)].sort()),
  changeType: z.enum(["api_update", "schema_change", "integration_update"]),
  description: plainText(4_096),
  /** What is proposed. Default {}. */
  changes: z.record(plainText(256), z.unknown()).default({}),
  impactAnalysis: z
    .strictObject({
      breakingChanges: z.boolean().default(false),
      migrationRequired: z.boolean().default(false),
      estimatedEffort: z.enum(["small", "medium", "large"]).default("small"),
    })
    .prefault({}),
  testingPlan: z.strictObject({ unitTests: names, integrationTests: names }).prefault({}),
  /**
   * Whose change it is, the last part of its id. Default: the module that the requesting agent speaks for, else the
   * first of the affected ones.
   */
  module: moduleName.optional(),
  /** True: stored as a draft, which nobody is told of before `submit`. Default false. */
  draft: z.boolean().default(false),
});
export type ChangeRequestInput = z.input<typeof changeRequestSchema>;
export type CheckedChange = z.output<typeof changeRequestSchema>;

const count = z.number().int("expected a whole number").min(0).max(1_000_000_000);
export const changeReportSchema = z.strictObject({
  module: moduleName,
  by: id,
  passed: count,
  failed: count,
  url: plainText(2_048).optional(),
});
export type ChangeReportInput = z.input<typeof changeReportSchema>;

export const changeListSchema = z.strictObject({
  state: z.enum(CHANGE_STATES).optional(),
  /** Default 100, at most 1,000. */
  limit: z.number().int().min(1).max(1_000).default(100),
  afterSeq: z.number().int().min(0).default(0),
});
export type ListChangesOptions = z.input<typeof changeListSchema>;

export interface ChangeApproval {
  readonly module: string;
  readonly decision: "approved" | "rejected";
  readonly by: string;
  readonly comment: string | null;
  readonly at: number;
}

export interface ChangeReport {
  readonly module: string;
  readonly passed: number;
  readonly failed: number;
  readonly url: string | null;
  readonly by: string;
  readonly at: number;
}

export interface ChangeMove {
  readonly from: ChangeState | null;
  readonly to: ChangeState;
  readonly by: string;
  readonly note: string | null;
  /** Completed without the reports that its testing plan asks for. */
  readonly forced: boolean;
  readonly at: number;
}

/** A change request. Instants are milliseconds since the epoch, by the database's clock. */
export interface ChangeRequest {
  readonly seq: number;
  readonly requestId: string;
  readonly requestingAgent: string;
  readonly affectedModules: readonly string[];
  readonly changeType: CheckedChange["changeType"];
  readonly description: string;
  readonly changes: Readonly<Record<string, unknown>>;
  readonly impactAnalysis: CheckedChange["impactAnalysis"];
  readonly testingPlan: CheckedChange["testingPlan"];
  readonly state: ChangeState;
  readonly revision: number;
  readonly createdAt: number;
  readonly updatedAt: number;
}

/** `CR-YYYYMMDDHHMMSS-module` in UTC, and `-2` and so on behind it where that is taken. */
export function changeId(at: number, module: string, n: number): string {
  const stamp = new Date(at).toISOString().replace(/\D/g, "").slice(0, 14);
  return `CR-${stamp}-${module}${n === 1 ? "" : `-${n}`}`;
}
