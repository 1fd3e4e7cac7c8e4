/** The far side of a client: a WebSocket that opens at once, and a service that answers as the test defines. */
import type { WebSocketConstructor, WebSocketLike } from "@towpath/client";
import { type Client, TowpathError, connect } from "@towpath/client";

type Data = Record<string, any>;
type Answer = Data | Refusal | null;

export interface Request {
  msg_id: string;
  action: string;
  data: Data;
}

/** An `error` answer. */
export class Refusal {
  constructor(
    readonly code: string,
    readonly retryable = false,
  ) {}
}

const WELCOME = {
  connection_id: "c-1",
  user_id: "ana",
  gateway_id: "gw-1",
  server_time: 0,
  heartbeat_ms: 25_000,
  max_frame_bytes: 65_536,
  version: "1.0",
};

export class Service {
  /** All that was asked, in order. */
  readonly asked: Request[] = [];
  readonly client: Client;
  #answers: Record<string, (data: Data, request: Request) => Answer>;
  #socket: Socket | null = null;
  #ids = 0;

  /** @param answers by action; `null` leaves a request waiting, and an action that is not there is unknown */
  constructor(answers: Record<string, (data: Data, request: Request) => Answer>) {
    this.#answers = answers;
    const open = (socket: Socket) => this.#open(socket);
    const hear = (text: string) => this.#hear(JSON.parse(text) as Request);
    this.client = connect({
      url: "ws://gateway.example/ws",
      token: () => "token",
      WebSocket: class extends Socket {
        constructor() {
          super(hear);
          queueMicrotask(() => open(this));
        }
      } satisfies WebSocketConstructor,
    });
    this.client.onError((error) => {
      if (!(error instanceof TowpathError && error.retryable)) throw error;
    });
  }

  /** The requests of one action. */
  of(action: string): Request[] {
    return this.asked.filter((request) => request.action === action);
  }

  /** @param fields more of the envelope, such as a position */
  push(action: string, data: Data, fields: Data = {}): void {
    this.#send({ action, data, ...fields });
  }

  /** A durable push of a room's stream. */
  tell(action: string, data: Data & { room: string }, seq: number = data["seq"]): void {
    this.push(action, data, { stream: `chat:${data.room}`, seq });
  }

  answer(request: Request, data: Data): void {
    this.#send({ action: `${request.action}.ok`, data, correlation_id: request.msg_id });
  }

  /** Ends this connection; the client reconnects. */
  drop(): void {
    this.#socket?.drop();
  }

  #open(socket: Socket): void {
    this.#socket = socket;
    socket.readyState = 1;
    this.#send({ action: "session.welcome", data: WELCOME });
  }

  #hear(request: Request): void {
    this.asked.push(request);
    const answer = (this.#answers[request.action] ?? (() => new Refusal("unknown_action")))(request.data, request);
    if (answer === null) return;
    queueMicrotask(() => {
      if (!(answer instanceof Refusal)) return this.answer(request, answer);
      const { code, retryable } = answer;
      const data = { code, message: `It says ${code}.`, retryable };
      this.#send({ action: "error", data, correlation_id: request.msg_id });
    });
  }

  #send(envelope: Data): void {
    const text = JSON.stringify({ msg_id: `srv-${(this.#ids += 1)}`, timestamp: 0, version: "1.0", ...envelope });
    this.#socket?.onmessage?.({ data: text });
  }
}

class Socket implements WebSocketLike {
  readyState = 0;
  onmessage: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;

  constructor(readonly send: (text: string) => void) {}

  close(): void {
    this.readyState = 3;
  }

  drop(): void {
    this.readyState = 3;
    this.onclose?.({ code: 1012, reason: "a restart" });
  }
}

/** Waits until views have handed out what came. */
export function handedOut(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Waits until `holds`, and says what it waited for when it never does. */
export async function eventually(holds: () => boolean, within = 5_000): Promise<void> {
  const end = Date.now() + within;
  while (!holds()) {
    if (Date.now() > end) throw new TowpathError("timeout", `This never held: ${String(holds)}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
