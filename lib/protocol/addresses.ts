import { ValidationFailed } from "../errors.ts";

/** A recipient that stands for others: all agents of a role, or all that are there. */
export interface GroupAddress {
  readonly kind: "role" | "broadcast";
  /** The role; "*" for all. */
  readonly name: string;
}

const PREFIXES = ["agent:", "role:", "broadcast:", "capability:", "human:"] as const;

/**
 * What an address means: the mailbox that it names, or a group whose members are looked up when it is sent.
 * `capability:NAME` and `human:NAME` are mailboxes of that very name: the first is served by all agents that have
 * the capability, the second read by a person.
 *
 * @throws ValidationFailed
 */
export function addressOf(recipient: string): string | GroupAddress {
  const prefix = PREFIXES.find((one) => recipient.startsWith(one));
  if (prefix === undefined) return recipient;
  const name = recipient.slice(prefix.length);
  if (name === "") throw new ValidationFailed(`toAgent: the address "${recipient}" names nobody`);
  if (prefix === "agent:") return name;
  if (prefix === "role:") return { kind: "role", name };
  if (prefix !== "broadcast:") return recipient;
  if (name !== "*") {
    throw new ValidationFailed(`toAgent: "${recipient}" is no address; there is "broadcast:*"`);
  }
  return { kind: "broadcast", name };
}
