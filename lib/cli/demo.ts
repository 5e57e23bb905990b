import { defineCommand } from "./command.ts";

const demo = defineCommand({
  name: "demo",
  summary: "Watch a supervisor and workers do real work, with one of them killed on the way",
  details: [
    "On a fresh SQLite file unless --database names another database. `agent-outbox demo --help` tells its own options.",
  ],
  examples: [
    ["demo", "on the files of this folder"],
    ["demo ~/projects/app", "on another folder"],
  ],
  passThrough: true,
  arguments: { args: { many: true, optional: true, help: "Passed on to the demo" } },
  async run({ args, endsByItself }) {
    endsByItself();
    const { main } = await import("../../demo/main.ts");
    return main([...args.args]);
  },
});

export const demoCommands = [demo];
