import type { ClaimRequest, Db, GateStatements } from "./dialect.ts";
import { candidate, claimedRow, inOrder, parseText } from "./rows.ts";
import { query } from "./sql.ts";

/** How a gated mailbox is claimed from: the same calls around each dialect's texts. */
export function gateCalls(texts: {
  readonly anyReady: string;
  readonly promote: string;
  readonly candidates: string;
  readonly take: string;
}): Pick<GateStatements, "anyReady" | "promote" | "candidates" | "take"> {
  return {
    async anyReady(db: Db, agent: string) {
      const [row] = await query(db, texts.anyReady, { agent });
      return Boolean(row?.found);
    },

    async promote(trx: Db, agent: string) {
      await query(trx, texts.promote, { agent });
    },

    async candidates(trx: Db, { agentId, lane, limit, messageTypes, held }) {
      const types = messageTypes === null ? null : JSON.stringify(messageTypes);
      const bindings = {
        ...{ agent: agentId, lane, limit, types },
        held_kinds: JSON.stringify(held?.kinds ?? []),
        held_types: JSON.stringify(held?.types ?? []),
      };
      return (await query(trx, texts.candidates, bindings)).map(candidate);
    },

    async take(
      trx: Db,
      request: Pick<ClaimRequest, "leaseMs" | "workerId"> & { readonly seqs: readonly number[] },
    ) {
      const rows = await query(trx, texts.take, {
        seqs: JSON.stringify(request.seqs),
        lease: request.leaseMs,
        worker: request.workerId,
      });
      return rows.map((row) => claimedRow(row, parseText)).sort(inOrder);
    },
  };
}
