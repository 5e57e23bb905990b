import type { ClaimedMessage } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { eachOf } from "./content.ts";

/** Contents that one call loads at the same time. */
const AT_ONCE = 4;

/** Fetches a claim's content, where the row only stands for it. Rejects with what `Contents.unpack` throws. */
export async function load(core: QueueCore, claim: ClaimedMessage): Promise<void> {
  if (claim.packed !== null) claim.noteContent(await core.contents.unpack(claim.packed));
}

/**
 * Fetches the contents of claims, and keeps their leases while that takes. Returns those that are there; what
 * becomes of the others is the database's business already.
 */
export async function loadAll(
  core: QueueCore,
  claims: readonly ClaimedMessage[],
  leaseMs: number,
): Promise<ClaimedMessage[]> {
  const begun = performance.now();
  const gone = new Set<ClaimedMessage>();
  const extend = async () => {
    const held = claims.filter((claim) => !gone.has(claim));
    const outcomes = await core.extend(
      held.map((claim) => ({ claim })),
      leaseMs,
    );
    for (const [n, claim] of held.entries()) {
      if (outcomes[n] === "done") claim.noteExtended(leaseMs);
      else gone.add(claim);
    }
  };
  let extending: Promise<unknown> = Promise.resolve();
  const timer = setInterval(
    () => {
      // Where it fails, the next one is tried; the last word has the receipt.
      extending = extending.then(extend).catch(() => undefined);
    },
    Math.max(1, leaseMs / 3),
  );
  try {
    await eachOf(claims, AT_ONCE, async (claim) => {
      try {
        await load(core, claim);
      } catch (error) {
        gone.add(claim);
        // Where the database is away too, the lease frees the message.
        await core.notLoaded(claim, error).catch(() => undefined);
      }
    });
  } finally {
    clearInterval(timer);
    await extending;
  }
  // The caller is to have the lease that it asked for.
  if (performance.now() - begun > leaseMs / 10) await extend().catch(() => undefined);
  return claims.filter((claim) => !gone.has(claim));
}
