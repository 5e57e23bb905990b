import type { AgentInfo } from "./agents.ts";
import type { AgentCard, AgentHistoryEntry, CardDocument } from "./cards.ts";

/** One line, whatever was put into a card. */
const line = (text: string): string => text.replace(/\s+/g, " ").trim();

const title = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}`;

const nameOf = (agentId: string, card: AgentCard | null): string =>
  line(card?.name ?? "") || agentId;

function section(heading: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : ["", `## ${heading}`, "", ...lines.map((it) => `- ${it}`)];
}

/** Each capability as declared, with what the card says of it. */
function capabilitiesOf({ capabilities, card }: CardDocument): string[] {
  return capabilities.map((declared) => {
    const about = card?.capabilities[declared.split(/[@=]/, 1)[0] ?? declared];
    return about === undefined ? declared : `${declared}: ${line(about)}`;
  });
}

/** How an agent presents itself, as Markdown. */
export function greetingOf(agent: AgentInfo, document: CardDocument): string {
  const { card } = document;
  const down = new Set(agent.dependenciesDown);
  const dependencies = (card?.dependencies ?? []).map((id) =>
    down.has(id) ? `${id} (down)` : `${id} (alive)`,
  );
  const list = (items: readonly string[]) =>
    items.length === 0 ? " none" : items.map((it) => `\n  - ${it}`).join("");
  const topics = agent.capabilities.length === 0 ? "any task" : agent.capabilities.join(", ");
  return [
    `# ${nameOf(agent.agentId, card)}`,
    "",
    ...(card?.description === undefined ? [] : [line(card.description), ""]),
    `- **Domain:** ${line(card?.domain ?? "") || "not stated"}`,
    `- **Location:** ${line(card?.location ?? "") || "not stated"}`,
    `- **Status:** ${title(card?.lifecycle ?? "active")} (${agent.state})`,
    `- **Capabilities:**${list(capabilitiesOf(document))}`,
    `- **Dependencies:**${list(dependencies)}`,
    "",
    `Ready to assist with ${topics}.`,
    "",
  ].join("\n");
}

/** AGENT.md: what users of an agent rely on. The hash in front tells whether it is still what the registry has. */
export function agentDocumentOf(agentId: string, hash: string, document: CardDocument): string {
  const { card, role, maxConcurrentTasks } = document;
  const { limits, sla } = card ?? {};
  return [
    "---",
    `agent_id: ${JSON.stringify(agentId)}`,
    `card_hash: ${hash}`,
    ...(card?.version === undefined ? [] : [`version: ${JSON.stringify(card.version)}`]),
    "---",
    "",
    `# ${nameOf(agentId, card)}`,
    ...(card?.description === undefined ? [] : ["", line(card.description)]),
    "",
    `- **Domain:** ${line(card?.domain ?? "") || "not stated"}`,
    `- **Location:** ${line(card?.location ?? "") || "not stated"}`,
    `- **Status:** ${title(card?.lifecycle ?? "active")}`,
    `- **Role:** ${role}`,
    ...section("Capabilities", capabilitiesOf(document)),
    ...section(
      "Dependencies",
      (card?.dependencies ?? []).map((id) =>
        card?.requireDependencies === true ? `${id} (required)` : id,
      ),
    ),
    ...section("Limits", [
      `${maxConcurrentTasks} tasks at once`,
      ...(limits?.memoryMb === undefined ? [] : [`${limits.memoryMb} MB of memory`]),
      ...(limits?.cpuPercent === undefined ? [] : [`${limits.cpuPercent} % of one core`]),
      ...(limits?.fileMb === undefined ? [] : [`files of ${limits.fileMb} MB`]),
    ]),
    ...section(
      "Response times",
      sla === undefined ? [] : [`target ${sla.targetMs} ms`, `at most ${sla.maxMs} ms`],
    ),
    ...section("Limitations", (card?.limitations ?? []).map(line)),
    ...(card?.errorHandling === undefined
      ? []
      : ["", "## Error handling", "", line(card.errorHandling)]),
    "",
  ].join("\n");
}

/** One thing that is new between two states of a card. */
interface Change {
  readonly kind: "Added" | "Updated" | "Fixed" | "Removed";
  readonly area: string;
  readonly text: string;
  /** Users that relied on it may have to change something. */
  readonly breaking: boolean;
}

/** The changes of an agent's card, the newest first, each as the message of a commit. */
export function changelogOf(agentId: string, entries: readonly AgentHistoryEntry[]): string {
  const cards = entries.flatMap(({ card, at }) => (card === null ? [] : [{ card, at }]));
  return cards
    .slice(0, -1)
    .map(({ card, at }, n) => {
      const changes = changesOf((cards[n + 1] as { card: CardDocument }).card, card);
      return changelogEntry(nameOf(agentId, card.card), card, at, changes);
    })
    .join("\n");
}

function changelogEntry(
  name: string,
  { card }: CardDocument,
  at: number,
  changes: readonly Change[],
): string {
  const day = new Date(at).toISOString().slice(0, 10);
  const breaking = changes.filter((it) => it.breaking).map(({ text }) => text);
  const version = card?.version === undefined ? "" : ` (${card.version})`;
  const first = changes[0];
  const what =
    changes.length === 1 && first !== undefined
      ? `${first.kind} ${first.text}`
      : `${changes.length} changes of ${day}`;
  return [
    `[AGENT-UPDATE] [${name}] - ${what}${version}`,
    "",
    ...changes.map(({ kind, text }) => `- ${kind}: ${text}`),
    "",
    `Affects: ${[...new Set(changes.map(({ area }) => area))].join(", ")}`,
    `Breaking: ${breaking.length === 0 ? "no" : `yes (${breaking.join("; ")})`}`,
    "",
  ].join("\n");
}

function changesOf(before: CardDocument, after: CardDocument): Change[] {
  const changes: Change[] = [];
  const lists = (area: string, old: readonly string[], now: readonly string[], one: string) => {
    for (const it of now.filter((item) => !old.includes(item))) {
      changes.push({ kind: "Added", area, text: `${one} ${line(it)}`, breaking: false });
    }
    for (const it of old.filter((item) => !now.includes(item))) {
      // A limitation that is gone is something that works now.
      const kind = area === "limitations" ? "Fixed" : "Removed";
      const breaking = area === "capabilities";
      changes.push({ kind, area, text: `${one} ${line(it)}`, breaking });
    }
  };
  lists("capabilities", before.capabilities, after.capabilities, "capability");
  const [old, now] = [before.card, after.card];
  lists("dependencies", old?.dependencies ?? [], now?.dependencies ?? [], "dependency");
  lists("limitations", old?.limitations ?? [], now?.limitations ?? [], "limitation");
  const [oldFields, nowFields] = [fieldsOf(before), fieldsOf(after)];
  for (const field of new Set([...oldFields.keys(), ...nowFields.keys()])) {
    const [from, to] = [oldFields.get(field), nowFields.get(field)];
    if (from === to) continue;
    const area = field.split(".", 1)[0] as string;
    const breaking = field === "lifecycle" && to === "deprecated";
    if (from === undefined) {
      changes.push({ kind: "Added", area, text: `${field} ${to}`, breaking });
    } else if (to === undefined) {
      changes.push({ kind: "Removed", area, text: `${field} ${from}`, breaking });
    } else {
      changes.push({ kind: "Updated", area, text: `${field} from ${from} to ${to}`, breaking });
    }
  }
  return changes;
}

/** All that is no list, by its path. */
function fieldsOf({ card, role, maxConcurrentTasks }: CardDocument): Map<string, string> {
  const fields = new Map<string, string>([
    ["role", role],
    ["limits.maxConcurrentTasks", String(maxConcurrentTasks)],
  ]);
  const { capabilities, dependencies: _d, limitations: _l, limits, sla, ...plain } = card ?? {};
  const nested = { limits, sla, descriptions: capabilities };
  for (const [name, value] of Object.entries(plain)) {
    if (value !== undefined) fields.set(name, line(String(value)));
  }
  for (const [group, values] of Object.entries(nested)) {
    for (const [name, value] of Object.entries(values ?? {})) {
      if (value !== undefined) fields.set(`${group}.${name}`, line(String(value)));
    }
  }
  return fields;
}
