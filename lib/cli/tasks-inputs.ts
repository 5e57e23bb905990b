import type { AnswerResult, InputRequest } from "../index.ts";
import { after, atMost, sayMore } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { CommandError } from "./exit-codes.ts";
import { readJson } from "./input.ts";
import { relative, wire } from "./text.ts";

/** Who answers from the command line, unless told otherwise. */
const OPERATOR = "operator";

const inputs = defineCommand({
  name: "tasks inputs",
  summary: "List what agents ask in the middle of their tasks",
  options: {
    task: { type: "text", short: "t", value: "ID", help: "Only of this task" },
    all: { type: "flag", help: "Also what was answered, or closed" },
    limit: atMost(100, "The most to list"),
    after,
  },
  examples: [
    ["tasks inputs", "the open questions"],
    ["tasks inputs --task report-7 --all --json", "what was asked and answered"],
  ],
  async run({ options, terminal, outbox }) {
    const found = await (await outbox()).tasks.inputs({
      taskId: options.task,
      all: options.all,
      limit: options.limit,
      afterSeq: options.after,
    });
    terminal.document(wire(found));
    if (found.length === 0) {
      terminal.say(options.all ? "Nothing was asked." : "Nobody asks anything.");
      return undefined;
    }
    const now = Date.now();
    const style = ({ state }: InputRequest) => (state === "open" ? ("yellow" as const) : undefined);
    terminal.table(found, [
      { title: "INPUT", value: ({ inputId }) => inputId, flexible: true },
      { title: "TASK", value: ({ taskId }) => taskId, flexible: true },
      { title: "KIND", value: ({ kind }) => kind },
      { title: "STATE", value: ({ state }) => state, style },
      { title: "ASKED", value: ({ askedAt }) => relative(askedAt, now) },
      { title: "DUE", value: ({ dueAt }) => relative(dueAt, now) },
      { title: "QUESTION", value: ({ prompt }) => prompt, flexible: true },
    ]);
    sayMore(terminal, found, options.limit);
    return undefined;
  },
});

const WHY: Record<Exclude<AnswerResult["outcome"], "answered">, string> = {
  already_answered: "it was answered already",
  lapsed: "its time has passed",
  task_ended: "its task has ended",
};

const answer = defineCommand({
  name: "tasks answer",
  summary: "Answer what an agent asks; its task goes on",
  arguments: {
    input: { help: "The question's id, as `tasks inputs` shows it" },
    answer: { help: "JSON; @FILE and - as in send; what is no JSON is taken as text" },
  },
  options: { by: { type: "text", value: "ID", default: OPERATOR, help: "Who answers" } },
  examples: [
    [`tasks answer report-7:input:5f0c '{"approved":true}'`, "an object"],
    ["tasks answer report-7:input:5f0c yes --by alice", "the text yes, from alice"],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    const { tasks } = await outbox();
    const given = await jsonOrText(args.answer, { terminal, stdin });
    const { outcome, input } = await tasks.answer(args.input, given, { by: options.by });
    if (outcome !== "answered") {
      throw new CommandError(`the answer changed nothing: ${WHY[outcome]}`);
    }
    terminal.document({ outcome, input: wire(input) });
    terminal.say(`Answered ${input.inputId}: task ${input.taskId} goes on.`);
    return undefined;
  },
});

/** `yes` is an answer that people type; what looks like JSON has to be JSON. */
async function jsonOrText(given: string, source: Parameters<typeof readJson>[2]): Promise<unknown> {
  if (given === "-" || given.startsWith("@") || /^\s*[[{"]/.test(given)) {
    return readJson("answer", given, source);
  }
  try {
    return JSON.parse(given);
  } catch {
    return given;
  }
}

export const inputCommands = [inputs, answer];
