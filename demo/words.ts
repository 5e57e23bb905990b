/** Numbers and names as people read them. */

const GROUPED = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

export function number(value: number): string {
  return GROUPED.format(value);
}

export function counted(count: number, noun: string, plural = `${noun}s`): string {
  return `${number(count)} ${count === 1 ? noun : plural}`;
}

export function seconds(ms: number): string {
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`;
}

export function bytes(count: number): string {
  if (count < 1_000) return `${count} B`;
  return count < 1_000_000 ? `${number(count / 1_000)} kB` : `${number(count / 1_000_000)} MB`;
}

/** File names and their contents may hold anything; a terminal must not obey it. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, "�");
}

export function shortened(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, width - 1)}…`;
}
