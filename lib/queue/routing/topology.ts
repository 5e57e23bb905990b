import {
  type Route,
  routeOf,
  type TopologyInput,
  type TopologySettings,
  topologyOf,
} from "../../protocol/topology.ts";
import { id, parse } from "../../protocol/validate.ts";
import { GateSettings } from "../../store/gate-settings.ts";
import { EVERY_MAILBOX, GateStore } from "../../store/gates.ts";
import { translated } from "../../store/sql.ts";
import type { QueueCore } from "../core.ts";

const MESH: TopologySettings = { mode: "mesh", onDirect: "reject", rules: [] };

/** Who may send to whom: one setting for all processes, asked at every send. */
export class Topology {
  readonly #core: QueueCore;

  /** @internal */
  constructor(core: QueueCore) {
    this.#core = core;
  }

  /**
   * Sets who may send to whom from now on; null: everybody to everybody. This process knows at once, others within
   * three seconds. What was sent before is delivered.
   *
   * @throws ValidationFailed
   */
  async set(topology: TopologyInput | null): Promise<TopologySettings> {
    const checked = topology === null ? null : topologyOf(topology);
    const core = this.#core;
    const db = await core.db();
    const settings = new GateSettings(core.knex, core.dialect, core.options.prefix);
    await settings.change(db, EVERY_MAILBOX, {
      topology: checked === null ? null : JSON.stringify(checked),
    });
    core.gates.known.forget();
    return checked ?? MESH;
  }

  /** What is set now. */
  async get(): Promise<TopologySettings> {
    const core = this.#core;
    const db = await core.db();
    const store = new GateStore(core.knex, core.dialect, core.options.prefix);
    const row = await translated(core.dialect, () => store.mailbox(db, EVERY_MAILBOX));
    return row?.topology ?? MESH;
  }

  /** What would become of a message, by what is set now. */
  async check(fromAgent: string, toAgent: string, messageType = "MESSAGE"): Promise<Route> {
    const [from, to] = [parse(id, fromAgent, "fromAgent"), parse(id, toAgent, "toAgent")];
    return routeOf(await this.get(), from, to, parse(id, messageType, "messageType"));
  }
}
