import { Readable } from "node:stream";
import { expect, it } from "vitest";
import { confirmed } from "../../lib/cli/confirm.ts";
import { Terminal } from "../../lib/cli/terminal.ts";

async function ask(answer: string, tty = { input: true, output: true }) {
  let out = "";
  const output = {
    isTTY: tty.output,
    write: (text: string) => {
      out += text;
    },
  };
  const stdin = Object.assign(Readable.from([Buffer.from(answer)]), { isTTY: tty.input });
  const terminal = new Terminal(output, output, { env: {} });
  return { yes: await confirmed(terminal, stdin, "Delete it?"), out };
}

it.each([
  ["y\n", true],
  ["YES\n", true],
  ["n\n", false],
  ["\n", false],
  ["yesterday\n", false],
  ["", false],
])("a person who answers %j is taken for %s", async (answer, yes) => {
  expect(await ask(answer)).toEqual({ yes, out: "Delete it? [y/N] " });
});

it("a script is not asked", async () => {
  expect(await ask("", { input: false, output: true })).toEqual({ yes: true, out: "" });
  expect(await ask("", { input: true, output: false })).toEqual({ yes: true, out: "" });
});
