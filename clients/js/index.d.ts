/** Types of `@towpath/client`. */

export type State = "connecting" | "open" | "recovering" | "closed";

/** One message as it stands on the wire. */
export interface Envelope<Data = Record<string, any>> {
  msg_id: string;
  /** Unix milliseconds, as the sender's clock had it. */
  timestamp: number;
  action: string;
  data: Data;
  version: string;
  key?: string;
  ack?: boolean;
  correlation_id?: string;
  /** With `seq`, the position of a durable push; `seq` grows by exactly 1 per stream. */
  stream?: string;
  seq?: number;
  traceparent?: string;
}

/** What the gateway says of a connection when it opens. */
export interface Connection {
  connection_id: string;
  user_id: string;
  gateway_id: string;
  server_time: number;
  heartbeat_ms: number;
  max_frame_bytes: number;
  version: string;
}

/** Why a request failed, or what went wrong in the background. */
export class TowpathError extends Error {
  constructor(code: string, message: string, more?: TowpathErrorFields & { cause?: unknown });
  readonly name: "TowpathError";
  /** From the wire (`forbidden`, `conflict`, `unavailable` …) or from this side (see {@link LocalErrorCode}). */
  code: WireErrorCode | LocalErrorCode | (string & {});
  /** Whether the same request, with the same `msgId`, can succeed later. */
  retryable: boolean;
  /** Particulars, such as `{fields: […]}`. `{sent: false}` means that the request never left. */
  details?: Record<string, any>;
  /** When to try again, from now. */
  retryAfterMs?: number;
  traceId?: string;
  /** The request it answers. */
  msgId?: string;
}

export interface TowpathErrorFields {
  retryable?: boolean;
  details?: Record<string, any>;
  retryAfterMs?: number;
  traceId?: string;
  msgId?: string;
}

export type WireErrorCode =
  | "bad_envelope"
  | "unsupported_version"
  | "unknown_action"
  | "invalid_data"
  | "unauthorized"
  | "forbidden"
  | "not_found"
  | "conflict"
  | "payload_too_large"
  | "rate_limited"
  | "busy"
  | "unavailable"
  | "timeout"
  | "internal";

export type LocalErrorCode =
  "timeout" | "queue_full" | "closed" | "aborted" | "bad_url" | "no_websocket" | "no_token" | "bad_frame";

export interface ConnectOptions {
  /** Where the gateway is, such as `wss://example.org/ws`. */
  url?: string;
  /** Several addresses of the same system: the first is tried first, the next when one fails. */
  urls?: readonly string[];
  /**
   * Gives the JWT. Called before the first connect, when a token expires or is about to, and after a failed connect
   * (which may have been a refused token). Throw a `TowpathError` that is not retryable to give up; any other failure
   * is tried again with backoff.
   */
  token: () => string | Promise<string>;
  /** For runtimes without a global one: Node before 22 takes that of the `ws` package. */
  WebSocket?: unknown;
  /** Positions kept from an earlier client, see {@link Client.positions}. */
  positions?: Record<string, number> | null;
  /** How many requests may wait for a connection; default 256. */
  queueLimit?: number;
}

export interface RequestOptions {
  /** Ordering key: requests of one domain and key are handled in the order they were sent. See {@link keyOf}. */
  key?: string;
  /** Milliseconds until the promise is rejected with `timeout`; default 30000, `Infinity` for none. */
  timeout?: number;
  /** Gives the request up. If it has left already, it may still take effect. */
  signal?: AbortSignal;
  /** Asks to be told once the broker has the request safely; a function is called then. */
  ack?: boolean | (() => void);
  /** The id of an earlier request, to ask again after an unknown outcome: its effect happens once. */
  msgId?: string;
}

/** A hole that cannot be filled: load the stream's history. `seq` is where the stream stands, if the service said. */
export interface Incomplete {
  stream: string;
  seq: number | null;
}

/** There is no connection, and when the next attempt comes. */
export interface Retry {
  attempt: number;
  delayMs: number;
  /** Close code of the last connection; `null` when there was no token to connect with. */
  code: number | null;
  reason: string;
}

export type Off = () => void;

export interface Client {
  readonly state: State;
  /** Of the open connection; else `null`. */
  readonly connection: Connection | null;
  /** The last `seq` of each stream. */
  readonly positions: Record<string, number>;
  request<Answer = Record<string, any>>(action: string, data?: object, options?: RequestOptions): Promise<Answer>;
  on(event: "incomplete", listener: (event: Incomplete) => void): Off;
  on(event: "retry", listener: (event: Retry) => void): Off;
  on<Data = Record<string, any>>(action: string, listener: (data: Data, envelope: Envelope<Data>) => void): Off;
  onState(listener: (state: State, error?: TowpathError) => void): Off;
  onError(listener: (error: unknown) => void): Off;
  /** Resolves once open, rejects when closed. */
  opened(): Promise<Connection>;
  /** Takes a stream's position from elsewhere, such as the answer to `chat.join`; one that is known stays. */
  track(stream: string, seq: number): void;
  /** Drops a stream's position. */
  forget(stream: string): void;
  /** Asks for what was missed in a domain's streams, or in all; happens by itself after a reconnect and on a hole. */
  resume(domain?: string): void;
  close(): void;
}

/** Opens a client; it connects in the background. Throws a `TowpathError` when the options cannot work. */
export function connect(options: ConnectOptions): Client;

/** An ordering key for any name: the name itself where the wire allows its letters, else `crc32:` and its checksum. */
export function keyOf(name: string): string;
