/**
 * Towpath's client: `connect`, and its types. README.md explains its use.
 */
export { connect } from "./client.js";
export type { Client } from "./client.js";
export { keyOf } from "./envelope.js";
export type { DurablePush, Envelope } from "./envelope.js";
export { TowpathError } from "./errors.js";
export type { ErrorCode, LocalErrorCode, TowpathErrorFields, WireErrorCode } from "./errors.js";
export type { State } from "./events.js";
export { shown } from "./names.js";
export type { WebSocketConstructor, WebSocketLike } from "./socket.js";
export { memoryStorage, webStorage } from "./storage.js";
export type { PositionStorage, StreamPositions, WebStorage } from "./storage.js";
export type { StreamOptions, StreamReader } from "./stream-reader.js";
export type { Change, Load, Reset, Update, View, ViewOptions } from "./view.js";
export type {
  ClientEvents,
  ConnectOptions,
  Connection,
  Incomplete,
  Off,
  RequestOptions,
  Retry,
} from "./surface.js";
// All of it, not name by name: only so can applications add to Actions and Pushes.
export * from "./actions.js";
