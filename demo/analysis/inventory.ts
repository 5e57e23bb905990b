/** What can only be said of all files together. */

export interface HashedFile {
  readonly path: string;
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

export interface Inventory {
  readonly files: number;
  readonly bytes: number;
  /** Files with the same content, the largest waste first; empty files are no duplicates. */
  readonly duplicates: readonly { readonly bytes: number; readonly paths: readonly string[] }[];
  readonly largest: readonly { readonly path: string; readonly bytes: number }[];
}

const MOST_SHOWN = 20;

export function takeInventory(files: readonly HashedFile[]): Inventory {
  const groups = new Map<string, HashedFile[]>();
  for (const file of files) {
    if (file.bytes === 0) continue;
    const group = groups.get(file.sha256);
    if (group === undefined) groups.set(file.sha256, [file]);
    else group.push(file);
  }
  const duplicates = [...groups.values()]
    .filter((group) => group.length > 1)
    .map((group) => ({
      bytes: group[0]?.bytes ?? 0,
      paths: group.map(({ path }) => path).sort(),
    }))
    .sort((a, b) => b.bytes * b.paths.length - a.bytes * a.paths.length);
  const largest = [...files]
    .sort((a, b) => b.bytes - a.bytes || (a.path < b.path ? -1 : 1))
    .slice(0, 5)
    .map(({ path, bytes }) => ({ path, bytes }));
  return {
    files: files.length,
    bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
    duplicates: duplicates.slice(0, MOST_SHOWN),
    largest,
  };
}
