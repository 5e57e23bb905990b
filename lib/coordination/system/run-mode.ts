import { MessageType } from "../../protocol/types.ts";
import type { ClaimedMessage } from "../../queue/claimed.ts";
import type { SystemModes } from "./system-modes.ts";

/** What a running agent knows of the maintenance: it asks when it starts, and hears of every change after. */
export class RunMode {
  readonly #system: SystemModes;
  readonly #agentId: string;
  #readOnly = false;

  constructor(system: SystemModes, agentId: string) {
    this.#system = system;
    this.#agentId = agentId;
  }

  get readOnly(): boolean {
    return this.#readOnly;
  }

  /** Looks what holds now, and acknowledges a maintenance. */
  async look(): Promise<void> {
    this.#readOnly = await this.#system.acknowledge(this.#agentId);
  }

  /** Takes note of a message about it. The tables decide, not the message: two of them may come out of order. */
  async heard({ messageType }: ClaimedMessage): Promise<void> {
    const about: readonly string[] = [MessageType.SYSTEM_MAINTENANCE, MessageType.SYSTEM_READY];
    if (about.includes(messageType)) await this.look();
  }
}
