import fc from "fast-check";
import { expect, it } from "vitest";
import { MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { finalState } from "./final-state.ts";
import { Model } from "./model.ts";
import { COMMANDS, LIMITS, type Real } from "./model-commands.ts";
import { seedOfRun } from "./random.ts";

const seed = seedOfRun();
/** No sequence is begun after this, so that on a busy machine fewer are tried. */
const MOST_MS = 6_000;
/** The search for the shortest failing sequence ends then. */
const LONGEST_MS = 150_000;
const SEQUENCES = 120;
const TABLES = ["messages", "archive", "dead_letters", "dedupe", "keys"].concat([
  "mailboxes",
  "limits",
  "slots",
]);

eachDatabase(`a queue beside its model (SEED=${seed})`, (database) => {
  it("answers every call as the model does, and ends in the same state", async () => {
    const knex = database.knex();
    const queue = new MessageQueueManager(knex);
    const sequences = fc.commands(COMMANDS, { maxCommands: 60, size: "max" });
    const started = performance.now();
    let tried = 0;
    let failed = false;
    await fc.assert(
      fc.asyncProperty(sequences, async (commands) => {
        if (tried++ > 0 && !failed && performance.now() - started > MOST_MS) return;
        await run(commands).catch((error) => {
          // Then the search for a shorter one goes on.
          failed = true;
          throw error;
        });
      }),
      { seed, numRuns: SEQUENCES, interruptAfterTimeLimit: LONGEST_MS },
    );
    await queue.close();

    async function run(commands: Iterable<fc.AsyncCommand<Model, Real>>): Promise<void> {
      for (const table of TABLES) await knex(`outbox_${table}`).del();
      // Also makes this queue forget what it knows of settings that are gone.
      for (const [agentId, maxInFlight] of Object.entries(LIMITS)) {
        await queue.limits.set(agentId, { agentId, maxInFlight });
      }
      const model = new Model(LIMITS);
      await fc.asyncModelRun(() => ({ model, real: { queue, knex, claims: [] } }), commands);
      await sameEnd(model);
    }

    async function sameEnd(model: Model): Promise<void> {
      const rows = await finalState(knex);
      const ends = rows.map(({ place, messageId, mailbox, outcome, reason, attempt }) => ({
        ...{ messageId, mailbox, reason, attempt },
        place: outcome ?? place,
      }));
      const expected = model.messages.map(({ id, to, place, reason, attempt }) => ({
        ...{ messageId: id, mailbox: to, reason, attempt, place },
      }));
      const byId = (a: { messageId: string }, b: { messageId: string }) =>
        a.messageId < b.messageId ? -1 : 1;
      expect(ends.sort(byId)).toEqual(expected.sort(byId));
      for (const mailbox of new Set(model.messages.map(({ to }) => to))) {
        const { leased, dead } = await queue.getQueueStats(mailbox);
        const held = model.live(mailbox).filter((one) => model.leased(one));
        expect({ leased, dead }).toEqual({ leased: held.length, dead: model.dead(mailbox).length });
      }
    }
  });
});
