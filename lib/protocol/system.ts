import { z } from "zod";
import { MESSAGE_KINDS } from "./types.ts";
import { id, plainText } from "./validate.ts";

/** What is held back in every mailbox, and why. Instants are milliseconds since the epoch, by the database's clock. */
export interface Maintenance {
  readonly since: number;
  readonly reason: string;
  readonly by: string;
  /** Messages of these kinds, and of these types, are stored and not handed out. */
  readonly kinds: readonly string[];
  readonly types: readonly string[];
}

export const maintenanceSchema = z.strictObject({
  /** Why, for people and agents; 1 to 1,024 characters. */
  reason: plainText(1_024).min(1, "expected a reason"),
  /** Who enters it. Default: the queue's own agent id. */
  by: id.optional(),
  /** Messages that write, by their kind. Default: task and command. */
  writeKinds: z
    .array(z.enum(MESSAGE_KINDS).exclude(["control"]))
    .max(20)
    .default(["task", "command"]),
  /** And by their type, exactly. Default: none. At most 200. */
  writeTypes: z
    .array(id)
    .max(200)
    .refine((types) => !types.some((type) => type.startsWith("SYSTEM_")), {
      message: "what announces the maintenance cannot be held back",
    })
    .default([]),
  /** Whether all agents that are there are told, with SYSTEM_MAINTENANCE. Default true. */
  announce: z.boolean().default(true),
});
export type MaintenanceInput = z.input<typeof maintenanceSchema>;

export const readySchema = z.strictObject({
  by: id.optional(),
  /** Whether all agents that are there are told, with SYSTEM_READY. Default true. */
  announce: z.boolean().default(true),
});
export type ReadyInput = z.input<typeof readySchema>;
