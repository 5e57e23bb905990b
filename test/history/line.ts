import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

type Fault = "none" | "swallow" | "deaf";

/** A TCP proxy before a database, whose line can be cut in ways that neither end notices. */
export class Line {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #fault: Fault = "none";

  private constructor(host: string, port: number) {
    this.#server = createServer((client) => {
      const upstream = connect(port, host);
      const pair = [client, upstream] as const;
      this.#pairs.add(pair);
      const end = () => {
        this.#pairs.delete(pair);
        client.destroy();
        upstream.destroy();
      };
      for (const socket of pair) socket.on("error", end).on("close", end);
      client.on("data", (data) => {
        if (this.#fault !== "swallow") upstream.write(data);
      });
      upstream.on("data", (data) => {
        if (this.#fault === "none") client.write(data);
      });
    });
  }

  /** Stands before the server of this URL. */
  static async before(url: string): Promise<Line> {
    const { hostname, port } = new URL(url);
    const line = new Line(hostname, Number(port));
    line.#server.listen(0, "127.0.0.1");
    await once(line.#server, "listening");
    return line;
  }

  /** The same database, through the proxy. */
  url(direct: string): string {
    const url = new URL(direct);
    const { port } = this.#server.address() as { port: number };
    url.host = `127.0.0.1:${port}`;
    return url.href;
  }

  /**
   * `swallow`: what is sent vanishes, and connections stay open. `deaf`: statements arrive and are carried out,
   * and their answers vanish.
   */
  break(fault: "swallow" | "deaf"): void {
    this.#fault = fault;
  }

  /** New connections work; those that were open while it was broken are cut. */
  mend(): void {
    this.#fault = "none";
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  async close(): Promise<void> {
    this.mend();
    const closed = once(this.#server, "close");
    this.#server.close();
    await closed;
  }
}
