import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { mailbox, note, watched } from "../support/queue.ts";

eachDatabase("contents of a batch", (database) => {
  /** Characters of one, two, three and four bytes. */
  const texts = ["plain", "", "é", "€uro", "👍", "x".repeat(5_000), "naïve 👍", "end é"];

  it.each([
    ["of one byte for each character", texts.filter((text) => /^[ -~]*$/.test(text))],
    ["of some that are longer", texts],
    ["of which the last is longer", ["a", "b", "aé"]],
    ["of which the last is much longer", ["a", "b", "👍"]],
    ["of which the first is longer", ["é", "b", "c"]],
  ])("arrive as they are, %s", async (_, contents) => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(contents.map((text) => note(to, { text })));
    const claimed = await queue.getMessages(to, { limit: contents.length });
    expect(claimed.map(({ content }) => content)).toEqual(contents.map((text) => ({ text })));
  });
});
