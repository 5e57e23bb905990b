/** What a statement does to messages, as far as faults tell them apart. */
export type FaultPoint = "send" | "claim" | "settle";

/**
 * Which of these a statement of the SQLite dialect is. A claim begins with a look whether anything is there; only
 * the statement that leases is the claim.
 */
export function pointOf(sql: string, prefix: string): FaultPoint | undefined {
  const messages = `${prefix}messages`;
  const text = sql.replaceAll("`", "").replace(/\s+/g, " ").trim();
  const begins = (start: string) => text.toLowerCase().startsWith(start);
  if (begins(`insert into ${messages}`)) return "send";
  if (
    begins(`update ${messages} set`) &&
    /receipt = receipt \+ 1, attempt = attempt \+/.test(text)
  ) {
    return "claim";
  }
  if (begins(`delete from ${messages}`)) return "settle";
  if (begins(`update ${messages} as m set state =`)) return "settle";
  return undefined;
}
