import { apiChange } from "./api-change.ts";
import { incident } from "./incident.ts";
import { maintenance } from "./maintenance.ts";
import { pipeline } from "./pipeline.ts";
import { project } from "./project.ts";
import type { Scenario } from "./scenario.ts";
import { upload } from "./upload.ts";

/** In the order in which `--list` shows them. */
export const SCENARIOS: readonly Scenario[] = [
  upload,
  apiChange,
  maintenance,
  incident,
  pipeline,
  project,
];
