/** Shifts this process's wall clock by CLOCK_OFF_MS; imported before anything else. */
const off = Number(process.env.CLOCK_OFF_MS ?? 0);
const Real = Date;

if (off !== 0) {
  globalThis.Date = class extends Real {
    constructor(...given: unknown[]) {
      if (given.length === 0) super(Real.now() + off);
      else super(...(given as [number]));
    }

    static override now(): number {
      return Real.now() + off;
    }
  } as DateConstructor;
}
