import type { Knex } from "knex";
import type { ClaimKey, Db } from "./dialect.ts";
import type { Ending, Settled, Settling, Turn } from "./settling.ts";
import { isTransaction } from "./sql.ts";
import { Together } from "./together.ts";

/**
 * One way of settling claims. Calls that settle a single claim each, outside of any transaction, and that come while
 * another one is under way, share a statement. Those under a key go alone: somebody may hold it for long.
 */
export class SharedEnding<C extends ClaimKey> {
  readonly #knex: Knex;
  readonly #settling: Settling;
  readonly #ending: Ending<C>;
  readonly #together: Together<Turn<C>, Settled>;

  constructor(
    knex: Knex,
    settling: Settling,
    ending: Ending<C>,
    /** Of errors and progress. */
    charactersOf: (claim: C) => number = () => 0,
  ) {
    this.#knex = knex;
    this.#settling = settling;
    this.#ending = ending;
    this.#together = new Together({
      run: (claims) => this.#eachOnce(claims),
      weightOf: charactersOf,
    });
  }

  /** As `Settling.surely`. */
  async settle(db: Db, claims: readonly Turn<C>[]): Promise<Settled[]> {
    const [claim] = claims;
    if (claims.length === 1 && claim !== undefined && claim.key === undefined) {
      if (!isTransaction(db)) return [await this.#together.add(claim)];
    }
    return this.#settling.surely(db, claims, this.#ending);
  }

  /** Resolves when everything that was given is written down, or has failed. */
  idle(): Promise<void> {
    return this.#together.idle();
  }

  /** Who settles a claim for the second time is to hear so: what came first is written down before it. */
  async #eachOnce(claims: readonly Turn<C>[]): Promise<Settled[]> {
    const seen = new Set<number>();
    const first: Turn<C>[] = [];
    const again: Turn<C>[] = [];
    for (const claim of claims) {
      (seen.has(claim.seq) ? again : first).push(claim);
      seen.add(claim.seq);
    }
    const outcomes = await this.#settling.surely(this.#knex, first, this.#ending);
    if (again.length === 0) return outcomes;
    outcomes.push(...(await this.#settling.surely(this.#knex, again, this.#ending)));
    const settled = new Map([...first, ...again].map((claim, n) => [claim, outcomes[n]]));
    return claims.map((claim) => settled.get(claim) ?? "gone");
  }
}
