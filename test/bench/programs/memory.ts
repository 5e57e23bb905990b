import { readFileSync, writeFileSync } from "node:fs";

// What the runtime takes before anything of ours is loaded.
const bareMb = process.memoryUsage.rss() / 1e6;
const { openOutbox } = await import("../../../lib/index.ts");
const { MAILBOX, note } = await import("../filling.ts");
const { obey, tell } = await import("./obey.ts");
type Order = import("../memory.ts").MemoryOrder;

const mb = () => process.memoryUsage.rss() / 1e6;

/**
 * The most since the last call of it, by the kernel's count. Where there is none: what is held now. The count of
 * getrusage is of no use: on Linux it begins with what the parent held.
 */
function peakMb(): number {
  try {
    const [, kb] = /^VmHWM:\s+(\d+)/m.exec(readFileSync("/proc/self/status", "utf8")) ?? [];
    writeFileSync("/proc/self/clear_refs", "5");
    return (Number(kb) * 1_024) / 1e6;
  } catch {
    return mb();
  }
}

const [url] = process.argv.slice(2) as [string];
const outbox = await openOutbox({ database: url, migrate: true });

async function drain(count: number, everyMs: number): Promise<void> {
  const openMb = mb();
  peakMb();
  const samples: [number, number][] = [[0, openMb]];
  const since = performance.now();
  const timer = setInterval(
    () => samples.push([(performance.now() - since) / 1_000, mb()]),
    everyMs,
  );
  let handled = 0;
  await new Promise<void>((resolve) => {
    const worker = outbox.queue.work(
      MAILBOX,
      () => {
        if (++handled === count) void worker.stop().then(resolve);
      },
      { concurrency: 100, batchSize: 500 },
    );
  });
  clearInterval(timer);
  const seconds = (performance.now() - since) / 1_000;
  samples.push([seconds, mb()]);
  const most = Math.max(peakMb(), ...samples.map(([, held]) => held));
  tell({ bareMb, openMb, peakMb: most, seconds, samples });
}

async function send(count: number): Promise<void> {
  const openMb = mb();
  // Texts of their own, as real ones are.
  const messages = Array.from({ length: count }, (_, n) => {
    const { content, ...rest } = note(n);
    return { ...rest, content: { ...content, text: String(n).padStart(180, "x") } };
  });
  const heldMb = mb();
  peakMb();
  let most = 0;
  const timer = setInterval(() => {
    most = Math.max(most, mb());
  }, 20);
  const since = performance.now();
  await outbox.queue.sendMessages(messages);
  const seconds = (performance.now() - since) / 1_000;
  clearInterval(timer);
  tell({ bareMb, openMb, heldMb, peakMb: Math.max(most, peakMb()), seconds });
}

obey<Order>(
  (order) => ("drain" in order ? drain(order.drain, order.everyMs) : send(order.send)),
  () => outbox.close(),
);
tell("ready");
