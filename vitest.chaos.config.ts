import { defineConfig, mergeConfig } from "vitest/config";
import config from "./vitest.config.ts";

/** `npm run chaos`: the long run, which is no part of `npm test`. */
export default defineConfig(async () => {
  const merged = mergeConfig(config, { test: { fileParallelism: false } });
  merged.test.include = ["test/history/chaos.ts"];
  return merged;
});
