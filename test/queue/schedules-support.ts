import type { Knex } from "knex";

let names = 0;

/** A schedule that no other test of the file uses. */
export function scheduleName(name = "schedule"): string {
  return `${name}-${++names}`;
}

/** Lets time pass for schedules without waiting, as if the database's clock had gone on by `ms`. */
export async function elapseSchedules(knex: Knex, ms: number, name?: string): Promise<void> {
  const query = knex("outbox_schedules");
  if (name !== undefined) query.where({ name });
  await query.update({
    next_run_at: knex.raw("next_run_at - ?", [ms]),
    due_at: knex.raw("due_at - ?", [ms]),
    end_at: knex.raw("end_at - ?", [ms]),
  });
}

/** The due times that were sent to a mailbox, as the ids of its messages tell, in the order of the mailbox. */
export async function sentDues(knex: Knex, toAgent: string): Promise<number[]> {
  const rows = (await knex("outbox_messages")
    .where({ to_agent: toAgent })
    .orderBy("seq")
    .select("message_id")) as { message_id: string }[];
  return rows.map(({ message_id: id }) => Date.parse(id.slice(id.lastIndexOf("@") + 1)));
}
