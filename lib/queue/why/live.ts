import type { Maintenance } from "../../protocol/system.ts";
import { DOOM_PREFIX } from "../../store/envelope-columns.ts";
import type { Mailbox } from "../../store/gate-rows.ts";
import { EVERY_MAILBOX, GateStore } from "../../store/gates.ts";
import { int, type Row } from "../../store/sql.ts";
import { candidate, WhyStore } from "../../store/why.ts";
import type { QueueCore } from "../core.ts";
import type { StoredMessage } from "../stored.ts";
import { type Consumer, consumersOf } from "../upkeep/presence.ts";
import { atGates } from "./gates.ts";
import { ago, heldBy, iso, lastFailure, type Obstacle } from "./words.ts";

/** A message in the live table. */
interface Live {
  readonly core: QueueCore;
  readonly look: WhyStore;
  readonly row: Row;
  readonly message: StoredMessage;
  readonly mailbox: Mailbox | undefined;
  readonly now: number;
}

/** All that keeps a live message back now, the decisive first. */
export async function obstacles(
  core: QueueCore,
  row: Row,
  message: StoredMessage,
  now: number,
): Promise<[Obstacle, ...Obstacle[]]> {
  if (message.state === "leased") return [leased(message)];
  const store = new GateStore(core.knex, core.dialect, core.options.prefix);
  const mailbox = await store.mailbox(core.knex, message.toAgent);
  const look = new WhyStore(core.knex, core.options.prefix);
  const live: Live = { core, look, row, message, mailbox, now };
  const at = candidate(row, now);
  const { toAgent: agentId } = message;
  const before = await look.before({ ...at, agentId }, now);
  const consumers = await consumersOf(core, agentId);
  const found = [
    ...expired(message, now),
    ...paused(agentId, mailbox),
    ...held(message, (await store.mailbox(core.knex, EVERY_MAILBOX))?.held ?? null),
    ...(await behindKey(live)),
    ...scheduled(message),
    ...(await atGates(
      { core, look, agentId, message: at, head: before.head, now },
      mailbox?.breaker ?? null,
    )),
    ...unattended(message, consumers, now),
  ];
  const [first, ...others] = found;
  const last = ready(message, before.count, consumers);
  if (first === undefined) return [last];
  // That nobody is there is said together with what is ready for them.
  if (first.state === "ready") return [{ ...first, reason: `${last.reason}; ${first.reason}` }];
  return [first, ...others];
}

function leased({ workerId, visibleAt, attempt, maxAttempts, ...rest }: StoredMessage): Obstacle {
  const message = { workerId, visibleAt, attempt, maxAttempts, ...rest };
  if (workerId?.startsWith(DOOM_PREFIX)) {
    return {
      state: "leased",
      reason: `on its way to the dead letters (${workerId.slice(DOOM_PREFIX.length)})${lastFailure(message)}`,
      remedy: "Nothing: if whoever moves it died, the next claim or upkeep does it.",
      until: visibleAt,
    };
  }
  return {
    state: "leased",
    reason: `leased by ${workerId} until ${iso(visibleAt)}, run ${attempt} of ${maxAttempts}${lastFailure(message)}`,
    remedy:
      "Wait for the worker to finish. If it died, the message is handed out again when the lease ends.",
    until: visibleAt,
  };
}

function expired({ expiresAt }: StoredMessage, now: number): Obstacle[] {
  if (expiresAt === null || expiresAt > now) return [];
  return [
    {
      state: "expired",
      reason: `expired at ${iso(expiresAt)}; it moves to the dead letters with the next claim or upkeep`,
      remedy: "Send it again with a longer ttlMs, or redrive it from the dead letters.",
      until: null,
    },
  ];
}

function paused(agentId: string, mailbox: Mailbox | undefined): Obstacle[] {
  if (mailbox === undefined || mailbox.pausedAt === null) return [];
  const why = mailbox.pauseReason === null ? "" : ` (${mailbox.pauseReason})`;
  return [
    {
      state: "paused",
      reason: `the mailbox ${agentId} is paused since ${iso(mailbox.pausedAt)}${why}`,
      remedy: `Run \`agent-outbox resume ${agentId}\`.`,
      until: null,
    },
  ];
}

/** What maintenance holds back. */
function held({ kind, messageType }: StoredMessage, maintenance: Maintenance | null): Obstacle[] {
  if (maintenance === null) return [];
  const { kinds, types, since, reason, by } = maintenance;
  if (!kinds.includes(kind) && !types.includes(messageType)) return [];
  return [
    {
      state: "maintenance",
      reason: `the system is in maintenance since ${iso(since)} (${reason}, by ${by}), which holds back ${kinds.includes(kind) ? `messages of the kind ${kind}` : messageType}`,
      remedy: "Run `agent-outbox system ready` when the maintenance is over.",
      until: null,
    },
  ];
}

async function behindKey(live: Live): Promise<Obstacle[]> {
  const { message, row, now } = live;
  const blocked = int(row.state) === 2;
  if (message.orderingKey !== null) return blocked ? [await behindOrder(live)] : [];
  if (message.concurrencyKey === null) return [];
  const due = int(row.state) === 1 && int(row.visible_at) <= now;
  return blocked || due ? withoutRoom(live, blocked) : [];
}

const STUCK = {
  state: "blocked",
  remedy: "Nothing: upkeep lets it through within a minute, `agent-outbox maintain` now.",
  until: null,
} as const;

async function behindOrder({ look, message, now }: Live): Promise<Obstacle> {
  const { toAgent: agent, sequence } = message;
  const key = String(message.orderingKey);
  const halt = await look.halt(agent, key);
  const ahead = await look.aheadInOrder(agent, key, sequence);
  if (halt !== null) {
    const dead = halt.messageId ?? `with sequence ${halt.sequence}`;
    const why = halt.reason === null ? "" : ` (${halt.reason})`;
    return {
      state: "halted",
      reason: `its ordering key ${key} is halted since ${iso(halt.at)} by the dead letter ${dead}${why}${ahead === 0 ? "" : `; ${counted(ahead)} before it`}`,
      remedy: `Mend the cause and run \`agent-outbox dlq redrive ${halt.messageId ?? "…"}\`; or leave it dead and go on with \`agent-outbox keys resume ${agent} ${key}\`.`,
      until: null,
    };
  }
  const head = await look.head(agent, key);
  if (head === undefined || head.seq === sequence || ahead === 0) {
    return {
      ...STUCK,
      reason: `the first of its ordering key ${key}, but not let through: an outsider deleted the one before it`,
    };
  }
  if (head.state === 2) {
    return {
      ...STUCK,
      reason: `behind the first of its ordering key ${key}, ${head.messageId}, which was not let through: an outsider deleted the one before it`,
    };
  }
  return {
    state: "blocked",
    reason: `behind the first of its ordering key ${key}: ${heldBy(head, now)}; ${counted(ahead)} before it`,
    remedy: `Nothing: one follows the other. What keeps the first: \`agent-outbox why ${head.messageId}\`.`,
    until: null,
  };
}

async function withoutRoom(live: Live, blocked: boolean): Promise<Obstacle[]> {
  const { look, message, mailbox, now } = live;
  const key = String(message.concurrencyKey);
  const limit = mailbox?.keyLimit ?? 1;
  const { count, first } = await look.sharing(message.toAgent, key);
  if (count < limit) {
    const reason = `its concurrency key ${key} has room (${count} of at most ${limit} in flight), but it was not let through yet`;
    return blocked ? [{ ...STUCK, reason }] : [];
  }
  const who = first.map((one) => heldBy(one, now)).join("; ");
  return [
    {
      state: "blocked",
      reason: `waits for room of its concurrency key ${key}: ${count} of at most ${limit} ready or in flight (${who}${count > first.length ? "; …" : ""})`,
      remedy: `Wait until one of them ends; \`agent-outbox mailboxes set ${message.toAgent} --key-limit N\` lets more through.`,
      until: null,
    },
  ];
}

function scheduled(message: StoredMessage): Obstacle[] {
  if (message.state !== "scheduled") return [];
  const { visibleAt, attempt, maxAttempts } = message;
  const failed = message.lastError !== null || message.failures.length > 0;
  return [
    {
      state: "scheduled",
      reason: failed
        ? `waits until ${iso(visibleAt)} for run ${attempt + 1} of ${maxAttempts}${lastFailure(message)}`
        : `not due before ${iso(visibleAt)}`,
      remedy: "Nothing: it becomes ready by itself.",
      until: visibleAt,
    },
  ];
}

function unattended(
  { toAgent, messageType }: StoredMessage,
  consumers: readonly Consumer[],
  now: number,
): Obstacle[] {
  const live = consumers.filter((consumer) => consumer.live);
  const takes = ({ messageTypes }: Consumer) => messageTypes?.includes(messageType) ?? true;
  if (live.some(takes)) return [];
  const [last] = consumers;
  const seen = last && `the last, ${last.workerId}, was seen ${ago(now - last.seenAt)}`;
  const types = [...new Set(live.flatMap(({ messageTypes }) => messageTypes ?? []))];
  return live.length === 0
    ? [
        {
          state: "ready",
          reason: `no consumer of ${toAgent} is live: ${seen ?? "none was seen within a day"}`,
          remedy: `Start a worker for the mailbox ${toAgent}.`,
          until: null,
        },
      ]
    : [
        {
          state: "ready",
          reason: `no live consumer of ${toAgent} takes ${messageType}: ${live.length === 1 ? "the one there is takes" : `the ${live.length} there are take`} only ${types.join(", ")}`,
          remedy: `Start a worker for ${messageType} in the mailbox ${toAgent}, or one that takes all types.`,
          until: null,
        },
      ];
}

function ready(message: StoredMessage, before: number, consumers: readonly Consumer[]): Obstacle {
  const { toAgent, workerId, visibleAt, attempt, maxAttempts } = message;
  const lapsed = workerId !== null;
  const spent =
    maxAttempts !== null && attempt >= maxAttempts
      ? "; it has had all its runs: the next claim moves it to the dead letters"
      : "";
  const line = before === 0 ? "" : `; ${counted(before)} before it`;
  const names = consumers.flatMap((consumer) => (consumer.live ? consumer.workerId : []));
  const live = names.length === 0 ? "" : `; live consumers: ${names.slice(0, 3).join(", ")}`;
  const more = names.length > 3 ? ` and ${names.length - 3} more` : "";
  return {
    state: message.state,
    reason: lapsed
      ? `ready again: the lease of ${workerId} passed at ${iso(visibleAt)} (run ${attempt} of ${maxAttempts})${spent}${lastFailure(message)}${line}${live}${more}`
      : `ready since ${iso(visibleAt)}; no consumer of ${toAgent} has claimed it${spent}${lastFailure(message)}${line}${live}${more}`,
    remedy: `Check that a worker polls the mailbox ${toAgent} and has room (\`agent-outbox stats ${toAgent}\`).`,
    until: null,
  };
}

const counted = (n: number) => (n >= 1_000 ? "1,000 or more are" : n === 1 ? "1 is" : `${n} are`);
