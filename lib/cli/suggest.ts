/** Edits between two words; a swap of neighbours counts as one. */
function distance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, n) => n)];
  const at = (row: number, column: number) => rows[row]?.[column] ?? 0;
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    rows.push(row);
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let best = Math.min(
        at(i - 1, j) + 1,
        (row[j - 1] ?? 0) + 1,
        at(i - 1, j - 1) + (same ? 0 : 1),
      );
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, at(i - 2, j - 2) + 1);
      }
      row.push(best);
    }
  }
  return at(a.length, b.length);
}

/** The known word that was most likely meant, if one is near enough to be worth a question. */
export function suggest(word: string, known: readonly string[]): string | undefined {
  const typed = word.toLowerCase();
  let best: { word: string; distance: number } | undefined;
  for (const candidate of known) {
    const length = Math.max(typed.length, candidate.length);
    const starts = typed.length >= 3 && candidate.startsWith(typed);
    const far = starts ? 0.5 : distance(typed, candidate);
    if (far <= Math.max(1, Math.floor(length / 3)) && far < (best?.distance ?? Infinity)) {
      best = { word: candidate, distance: far };
    }
  }
  // Two letters are near to every other two letters.
  return best !== undefined && best.distance < typed.length ? best.word : undefined;
}

export function didYouMean(word: string, known: readonly string[]): string | undefined {
  const meant = suggest(word, known);
  return meant === undefined ? undefined : `Did you mean "${meant}"?`;
}

export function didYouMeanOption(written: string, known: readonly string[]): string | undefined {
  const meant = suggest(written.replace(/^-+/, ""), known);
  return meant === undefined ? undefined : `Did you mean --${meant}?`;
}
