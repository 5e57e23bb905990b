/** What keeps a test's world from coming to rest. */
export class NotSettled extends Error {
  override readonly name = "NotSettled";
  /** One line for each thing that still moves. */
  readonly moving: readonly string[];

  constructor(moving: readonly string[]) {
    super(`the world did not come to rest:\n${moving.map((one) => `  - ${one}`).join("\n")}`);
    this.moving = moving;
  }
}
