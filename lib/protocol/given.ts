import { z } from "zod";
import { ValidationFailed } from "../errors.ts";
import { parse, shown } from "./validate.ts";

/**
 * The options of a call, before they are taken apart: `null` and the like would end in a TypeError there.
 *
 * @throws ValidationFailed
 */
export function given<T extends object>(options: T): T {
  if (options === null || typeof options !== "object" || Array.isArray(options)) {
    throw new ValidationFailed(`options: expected an object, got ${shown(options)}`);
  }
  return options;
}

const none = z.strictObject({});

/** Refuses what is left after the known options were taken out. @throws ValidationFailed */
export function noMore(rest: object): void {
  parse(none, rest, "options");
}
