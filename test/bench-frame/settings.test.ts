import { describe, expect, it } from "vitest";
import { settings, UsageError } from "../bench/settings.ts";

describe("the command line of the bench", () => {
  it("measures the queue on both databases when nothing is asked", () => {
    expect(settings([])).toMatchObject({
      benches: ["queue"],
      databases: ["postgres", "sqlite"],
      rounds: 5,
      quick: false,
      gate: undefined,
    });
  });

  it("takes several names and all", () => {
    expect(settings(["--only", "memory, queue"])?.benches).toEqual(["queue", "memory"]);
    expect(settings(["--only", "all"])?.benches).toHaveLength(8);
  });

  it("compares with the file that is named, else with the published one", () => {
    expect(settings(["--gate"])).toMatchObject({
      gate: "docs/performance.json",
      benches: ["queue", "assignment"],
      margin: 0.25,
    });
    expect(settings(["--gate", "other.json", "--only", "queue", "--margin", "0.1"])).toMatchObject({
      gate: "other.json",
      benches: ["queue"],
      margin: 0.1,
    });
  });

  it("wants only help", () => {
    expect(settings(["--help"])).toBeUndefined();
  });

  it.each([
    [["--database", "mysql"], 'does not know "mysql": it is postgres, sqlite'],
    [["--only", "queue,speed"], 'does not know "speed": it is queue, kinds, assignment'],
    [["--rounds", "many"], 'a whole number from 1 on, not "many"'],
    [["--rounds", "0"], "a whole number from 1 on"],
    [["--rounds", ""], "a whole number from 1 on"],
    [["--json"], "--json"],
    [["--json", ""], "--json needs the name"],
    [["--json", "--quick"], "--json"],
    [["--margin", "25"], "a part such as 0.25"],
    [["--postgres", "localhost"], "--postgres is a URL"],
    [["queue"], '"queue" is not understood'],
    [["--fast"], "--fast"],
  ])("says what is wrong with %j", (args, message) => {
    expect(() => settings(args)).toThrow(UsageError);
    expect(() => settings(args)).toThrow(message);
  });
});
