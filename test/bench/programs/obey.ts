/** What a program tells whoever started it. */
export function tell(told: unknown): void {
  if (process.connected) process.send?.({ told });
}

/** Does what it is told until it is let go, and ends then. */
export function obey<Order extends object>(
  act: (order: Order) => Promise<void> | void,
  close: () => Promise<void>,
): void {
  const failed = (error: unknown) => {
    process.send?.({ failed: String((error as Error).stack ?? error) });
  };
  process.on("message", async (order: Order) => {
    try {
      await act(order);
    } catch (error) {
      failed(error);
    }
  });
  process.on("disconnect", () => {
    // Whatever still hangs after this is ended hard: nobody listens any more.
    setTimeout(() => process.exit(1), 15_000).unref();
    close().then(
      () => process.exit(0),
      () => process.exit(1),
    );
  });
}
