/** The network's far side: a WebSocket class whose sockets the test opens, feeds and closes. */
import type { WebSocketConstructor, WebSocketLike } from "../src/index.js";

type Fields = Record<string, any>;

export const WELCOME = {
  connection_id: "c-1",
  user_id: "ana",
  gateway_id: "gw-1",
  server_time: 0,
  heartbeat_ms: 25_000,
  max_frame_bytes: 65_536,
  version: "1.0",
};

let frames = 0;

/** The text of one frame from the server. */
export function frame(action: string, data: Fields = {}, fields: Fields = {}): string {
  return JSON.stringify({ msg_id: `srv-${(frames += 1)}`, timestamp: 0, action, data, version: "1.0", ...fields });
}

export class Network {
  readonly sockets: FakeSocket[] = [];
  readonly WebSocket: WebSocketConstructor;

  constructor() {
    const { sockets } = this;
    this.WebSocket = class extends FakeSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        sockets.push(this);
      }
    };
  }

  /** The newest socket. */
  get socket(): FakeSocket {
    const socket = this.sockets.at(-1);
    if (socket === undefined) throw new Error("no socket was opened");
    return socket;
  }
}

export class FakeSocket implements WebSocketLike {
  readyState = 0;
  onmessage: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  /** Envelopes that the client sent. */
  readonly sent: Fields[] = [];
  /** How the client closed it. */
  closed: [code: number | undefined, reason: string | undefined] | null = null;
  readonly url: string;
  readonly protocols: string[];

  constructor(url: string, protocols: string[]) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text: string): void {
    if (this.readyState !== 1) throw new Error("InvalidStateError");
    this.sent.push(JSON.parse(text));
  }

  close(code?: number, reason?: string): void {
    this.readyState = 2;
    this.closed = [code, reason];
  }

  welcome(data: Fields = {}): void {
    this.readyState = 1;
    this.says("session.welcome", { ...WELCOME, ...data });
  }

  says(action: string, data?: Fields, fields?: Fields): void {
    this.hears(frame(action, data, fields));
  }

  /** A frame as it comes, whatever it is. */
  hears(data: unknown): void {
    this.onmessage?.({ data });
  }

  /** A durable push. */
  pushes(stream: string, seq: number, data: Fields = {}): void {
    this.says("chat.message", data, { stream, seq });
  }

  /** The last envelope that was sent. */
  get last(): Fields {
    const last = this.sent.at(-1);
    if (last === undefined) throw new Error("nothing was sent");
    return last;
  }

  /** Answers the last request that was sent. */
  answers(data: Fields = {}): void {
    const { action, msg_id } = this.last;
    this.says(`${action}.ok`, data, { correlation_id: msg_id });
  }

  breaks(code = 1006, reason = "", message?: string): void {
    this.readyState = 3;
    this.onerror?.({ message });
    this.onclose?.({ code, reason });
  }
}
