/**
 * The types that an application sees: what may be asked and heard.
 *
 * An action in {@link Actions} has typed data and answer, a push in {@link Pushes} typed data. Applications add their
 * own by declaration merging; any other name may be used as well, untyped or with the type given by hand.
 */
import type { Actions, Pushes } from "./actions.js";
import type { TowpathError } from "./errors.js";
import type { State } from "./events.js";
import type { WebSocketConstructor } from "./socket.js";
import type { PositionStorage, StreamPositions } from "./storage.js";

export interface ConnectOptions {
  /** Where the gateway is, such as `wss://example.org/ws`. */
  url?: string | undefined;
  /** Several addresses of the same system: the first is tried first, the next when one fails. */
  urls?: readonly string[] | undefined;
  /**
   * Gives the JWT, within 30 seconds. Called before the first connect, when a token expires or is about to, and after a
   * failed connect (which may have been a refused token). Throw a `TowpathError` that is not retryable to give up; any
   * other failure is tried again with backoff.
   */
  token: () => string | PromiseLike<string>;
  /** For runtimes without a global one: Node before 22 takes that of the `ws` package. */
  WebSocket?: WebSocketConstructor | undefined;
  /** Positions kept from an earlier client, see {@link Client.positions}. They win over what `storage` has. */
  positions?: StreamPositions | null | undefined;
  /** Where positions outlive the client. */
  storage?: PositionStorage | undefined;
  /** How many requests may wait for a connection; default 256. */
  queueLimit?: number | undefined;
}

export interface RequestOptions {
  /** Ordering key: requests of one domain and key are handled in the order they were sent. See {@link keyOf}. */
  key?: string | undefined;
  /** Milliseconds until the promise is rejected with `timeout`; default 30,000, `Infinity` for none. */
  timeout?: number | undefined;
  /** Gives the request up. If it has left already, it may still take effect. */
  signal?: AbortSignal | undefined;
  /** Requests `accepted` once the broker has confirmed the request; a function is called then. */
  ack?: boolean | (() => void) | undefined;
  /** The id of an earlier request, to ask again after an unknown outcome: its effect happens once. */
  msgId?: string | undefined;
  /**
   * The answer's `seq` is the position in this stream, as that of `chat.join` is for `chat:<room>`. From there on
   * no entry is missed: pushes before the answer wait for it.
   */
  stream?: string | undefined;
}

/** The gateway's data of an opened connection. */
export interface Connection {
  connection_id: string;
  user_id: string;
  gateway_id: string;
  server_time: number;
  heartbeat_ms: number;
  max_frame_bytes: number;
  version: string;
}

/** A hole that cannot be filled: load the stream's history. `seq` is the current position, if it is known. */
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

/** The client's own events, with what their listeners get. */
export interface ClientEvents {
  /** At every change; `error` says why it is `closed`. */
  state: [state: State, error?: TowpathError];
  /** Background errors. Without a listener they go to the console. */
  error: [error: unknown];
  incomplete: [event: Incomplete];
  retry: [event: Retry];
}

/** Takes a listener off. */
export type Off = () => void;

export type DataOf<Name> = Name extends keyof Actions ? Actions[Name]["data"] : object;
export type AnswerOf<Name> = Name extends keyof Actions ? Actions[Name]["answer"] : Record<string, any>;
export type PushOf<Name> = Name extends keyof Pushes ? Pushes[Name] : Record<string, any>;

/** The parameters after the action; the data is optional where `{}` fits. */
export type RequestArguments<Data> = {} extends Data
  ? [data?: Data, options?: RequestOptions]
  : [data: Data, options?: RequestOptions];

/** A placeholder for a type that was not given; an overload with it does not match. */
export type Given<Type, Value> = [Type] extends [never] ? never : Value;
