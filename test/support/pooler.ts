import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

const SSL_REQUEST = 80_877_103;
const SYNC = 0x53;
const SIMPLE_QUERY = 0x51;
const TERMINATE = 0x58;
const READY = 0x5a;
const KEY_DATA = 0x4b;
const IDLE = 0x49;

/** Cuts a stream into messages of PostgreSQL's protocol. The first one of a client has no type. */
class Messages {
  #rest: Buffer = Buffer.alloc(0);
  #typed: boolean;

  constructor(typed: boolean) {
    this.#typed = typed;
  }

  *of(data: Buffer): Generator<Buffer> {
    this.#rest = Buffer.concat([this.#rest, data]);
    for (;;) {
      const head = this.#typed ? 1 : 0;
      if (this.#rest.length < head + 4) return;
      const length = head + this.#rest.readInt32BE(head);
      if (this.#rest.length < length) return;
      const message = this.#rest.subarray(0, length);
      this.#rest = this.#rest.subarray(length);
      if (!this.#typed && message.readInt32BE(4) !== SSL_REQUEST) this.#typed = true;
      yield message;
    }
  }
}

/** A connection to the server; each client that comes brings one. */
class Backend {
  readonly socket: Socket;
  client: Client | undefined;

  constructor(socket: Socket) {
    this.socket = socket;
  }
}

class Client {
  readonly socket: Socket;
  backend: Backend | undefined;
  last: Backend | undefined;
  /** What waits for a backend. */
  readonly waiting: Buffer[] = [];
  /** Answers that are still to come until its transaction may be over. */
  open = 0;
  started = false;

  constructor(socket: Socket) {
    this.socket = socket;
  }
}

/**
 * A pooler in transaction mode, as PgBouncer was before it knew of prepared statements: each transaction gets another
 * connection of the server than the client's last one, where there is another.
 */
export class TransactionPooler {
  readonly #target: URL;
  readonly #server: Server;
  readonly #idle: Backend[] = [];
  readonly #queue: Client[] = [];
  readonly #sockets = new Set<Socket>();
  /** Transactions that got another connection than the one before them. */
  switched = 0;
  /** Like PgBouncer it names itself, and no process of the server's, as what a client is connected to. */
  #greeted = 1_000_000_000;

  private constructor(target: string) {
    this.#target = new URL(target);
    this.#server = createServer((socket) => this.#accept(socket));
  }

  static async start(target: string): Promise<TransactionPooler> {
    const pooler = new TransactionPooler(target);
    pooler.#server.listen(0, "127.0.0.1");
    await once(pooler.#server, "listening");
    return pooler;
  }

  get url(): string {
    const url = new URL(this.#target);
    url.hostname = "127.0.0.1";
    url.port = String((this.#server.address() as AddressInfo).port);
    return url.href;
  }

  async dispose(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }

  #keep(socket: Socket): Socket {
    this.#sockets.add(socket);
    socket.setNoDelay().on("error", () => undefined);
    return socket.on("close", () => this.#sockets.delete(socket));
  }

  #accept(socket: Socket): void {
    const client = new Client(this.#keep(socket));
    const messages = new Messages(false);
    socket.on("data", (data: Buffer) => {
      for (const message of messages.of(data)) this.#asked(client, message);
    });
  }

  #asked(client: Client, message: Buffer): void {
    if (!client.started && message.readInt32BE(4) === SSL_REQUEST) {
      client.socket.write("N");
      return;
    }
    if (!client.started) {
      client.started = true;
      client.open = 1;
      this.#join(client, this.#connect());
    }
    const [type] = message;
    if (type === TERMINATE) return;
    if (type === SYNC || type === SIMPLE_QUERY) client.open += 1;
    if (client.backend !== undefined) {
      client.backend.socket.write(message);
      return;
    }
    client.waiting.push(message);
    if (!this.#queue.includes(client)) this.#queue.push(client);
    this.#serve();
  }

  #connect(): Backend {
    const { hostname, port } = this.#target;
    const backend = new Backend(this.#keep(connect(Number(port), hostname)));
    const messages = new Messages(true);
    backend.socket.on("data", (data: Buffer) => {
      for (const message of messages.of(data)) this.#answered(backend, message);
    });
    return backend;
  }

  #answered(backend: Backend, message: Buffer): void {
    const { client } = backend;
    if (message[0] === KEY_DATA) message.writeInt32BE(this.#greeted++, 5);
    client?.socket.write(message);
    if (client === undefined || message[0] !== READY) return;
    client.open -= 1;
    if (client.open > 0 || message[5] !== IDLE) return;
    client.last = backend;
    client.backend = undefined;
    backend.client = undefined;
    this.#idle.push(backend);
    this.#serve();
  }

  #serve(): void {
    while (this.#idle.length > 0) {
      const client = this.#queue.shift();
      if (client === undefined) return;
      const other = this.#idle.findIndex((backend) => backend !== client.last);
      const [backend] = this.#idle.splice(Math.max(0, other), 1) as [Backend];
      if (client.last !== undefined && backend !== client.last) this.switched += 1;
      this.#join(client, backend);
      for (const message of client.waiting.splice(0)) backend.socket.write(message);
    }
  }

  #join(client: Client, backend: Backend): void {
    client.backend = backend;
    backend.client = client;
  }
}
