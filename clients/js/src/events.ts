/** The events of a session, its actions, and its states. Named as in libs/protocol/vectors. */
import type { DurablePush, Envelope } from "./envelope.js";
import type { TowpathError } from "./errors.js";

/** The state for the application: `recovering` was open and will be again. */
export type State = "connecting" | "open" | "recovering" | "closed";

export type Purpose = "connect" | "refresh";

/** The events. */
export type Event =
  | { type: "start" }
  | { type: "token"; purpose: Purpose; token: string }
  | { type: "token_failed"; purpose: Purpose; error: TowpathError }
  | { type: "frame"; text: unknown }
  | Disconnected
  | { type: "timer"; timer: string }
  | RequestMade
  | { type: "abandon"; msg_id: string; error: TowpathError }
  | { type: "track"; stream: string; seq: number }
  | { type: "forget"; stream: string }
  | { type: "resume"; domain?: string | undefined }
  | { type: "open_view"; view: string; stream: string }
  | { type: "close_view"; view: string }
  /** The application has not taken what the view put out, and wants its state again. */
  | { type: "reload_view"; view: string }
  | { type: "loaded"; view: string; seq: number; state: unknown }
  | { type: "load_failed"; view: string; error: TowpathError }
  /** The machine hears that it is back online. */
  | { type: "network" }
  | { type: "close" };

export interface Disconnected {
  type: "disconnected";
  code: number;
  reason: string;
  /** HTTP status of an upgrade that was refused, and its `Retry-After`, where they can be known. */
  status?: number | undefined;
  retry_after_ms?: number | undefined;
}

export interface RequestMade {
  type: "request";
  msg_id: string;
  action: string;
  data?: object | undefined;
  key?: string | undefined;
  ack?: boolean | undefined;
  timeout_ms?: number | undefined;
  /** The answer's `seq` is the position in this stream. */
  stream?: string | undefined;
}

/** The actions. */
export type Action =
  | { do: "fetch_token"; purpose: Purpose }
  | { do: "connect"; url: string; token: string }
  /** After it the socket must not be heard of again. */
  | { do: "disconnect"; code: number; reason: string }
  | { do: "send"; text: string }
  /** Sets or resets a timer; the time is drawn evenly from the range. */
  | { do: "timer"; timer: string; min_ms: number; max_ms: number }
  | { do: "cancel"; timer: string }
  | { do: "resolve"; msg_id: string; data: Record<string, any> }
  | { do: "reject"; msg_id: string; error: TowpathError }
  | { do: "accepted"; msg_id: string }
  | { do: "push"; envelope: Envelope }
  | { do: "incomplete"; stream: string; seq: number | null }
  | { do: "load"; view: string }
  /** Replaces all that the view had before. */
  | { do: "reset"; view: string; seq: number; state: unknown }
  | { do: "change"; view: string; envelope: DurablePush }
  | { do: "view_failed"; view: string; error: TowpathError }
  | { do: "welcome"; data: Record<string, any> }
  | { do: "state"; state: State; error?: TowpathError | undefined }
  /** Follows the timer `reconnect`. */
  | { do: "retry"; attempt: number; code: number | null; reason: string }
  | { do: "report"; error: TowpathError };
