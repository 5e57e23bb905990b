import { afterCommit } from "../../store/after-commit.ts";
import type { Db } from "../../store/dialect.ts";
import { isTransaction } from "../../store/sql.ts";
import type { QueueCore } from "../core.ts";

/** A claim that has ended. */
export interface End {
  readonly toAgent: string;
  readonly sequence: number;
  readonly receipt: number;
}

/**
 * What follows when claims have ended: whoever waits for their room is woken, and a mailbox's breaker learns how they
 * ended. `failed` undefined: that says nothing of the destination.
 */
export async function follow(
  core: QueueCore,
  db: Db,
  ended: readonly End[],
  failed: boolean | undefined,
): Promise<void> {
  const gated = ended.filter(({ toAgent }) => core.gates.known.guards(toAgent));
  if (gated.length === 0) return;
  const run = async () => {
    const agents = new Set(gated.map(({ toAgent }) => toAgent));
    for (const agentId of agents) {
      const ends = gated.filter(({ toAgent }) => toAgent === agentId);
      if (failed !== undefined) await core.breakers.outcome(agentId, ends, failed);
    }
    core.signal(agents);
    // Who waits for a limit that is about all mailboxes may wait anywhere.
    if (core.gates.known.limitsAll()) core.wakeHub.wakeAll();
  };
  // What was settled stays so, whatever becomes of this: a slot frees itself, a probe is repeated.
  const runs = () => run().catch(() => undefined);
  if (isTransaction(db)) afterCommit(db, () => void runs());
  else await runs();
}
