import { agentCommands } from "./agents.ts";
import { changeCommands } from "./changes.ts";
import { claimCommands } from "./claims.ts";
import type { Command } from "./command.ts";
import { deadLetterCommands } from "./dead-letters.ts";
import { demoCommands } from "./demo.ts";
import { doctorCommands } from "./doctor.ts";
import { handoffCommands } from "./handoffs.ts";
import type { CommandGroup } from "./help.ts";
import { keyCommands } from "./keys.ts";
import { limitCommands } from "./limits.ts";
import { lockCommands } from "./locks.ts";
import { logCommands } from "./logs.ts";
import { mailboxCommands } from "./mailboxes.ts";
import { maintainCommands } from "./maintain.ts";
import { sendCommands, whyCommands } from "./messages.ts";
import { healthCommands, operateCommands } from "./operate.ts";
import { payloadCommands } from "./payloads.ts";
import { scheduleCommands } from "./schedules.ts";
import { setupCommands } from "./setup.ts";
import { systemCommands } from "./system.ts";
import { taskCommands } from "./tasks.ts";
import { taskWhyCommands } from "./tasks-why.ts";
import { topologyCommands } from "./topology.ts";
import { workCommands } from "./work.ts";
import { workflowCommands } from "./workflows.ts";

/** Every command, in the order of the help. */
export const GROUPS: readonly CommandGroup[] = [
  {
    title: "Set up",
    commands: [...setupCommands, ...healthCommands, ...doctorCommands, ...demoCommands],
  },
  {
    title: "Messages",
    commands: [...sendCommands, ...claimCommands, ...workCommands, ...whyCommands],
  },
  { title: "Schedules", commands: scheduleCommands },
  {
    title: "Watch and steer",
    commands: [...operateCommands, ...maintainCommands, ...payloadCommands],
  },
  {
    title: "Mailboxes and limits",
    commands: [...mailboxCommands, ...limitCommands, ...keyCommands],
  },
  { title: "Dead letters", commands: deadLetterCommands },
  { title: "Agents", commands: agentCommands },
  { title: "Tasks", commands: [...taskCommands, ...taskWhyCommands] },
  { title: "Workflows", commands: workflowCommands },
  { title: "Handoffs", commands: handoffCommands },
  { title: "Change requests", commands: changeCommands },
  { title: "Locks", commands: lockCommands },
  { title: "System", commands: [...systemCommands, ...topologyCommands] },
  { title: "Logs", commands: logCommands },
];

export const COMMANDS: readonly Command[] = GROUPS.flatMap(({ commands }) => commands);
