/**
 * Errors as data with a code.
 *
 * A code comes from the wire ({@link WireErrorCode}) or from this side ({@link LocalErrorCode}).
 * `details.sent === false` says for certain that the request never left and had no effect.
 */

/** Errors answered by a service or the gateway. */
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

/**
 * Errors of the client:
 *
 * - `timeout`: no answer in time. Outcome unknown unless `details.sent` is `false`: ask again with the same `msgId`.
 * - `queue_full`: too many requests wait for a connection; this one was not taken.
 * - `closed`: the client is closed, so no answer can come.
 * - `aborted`: the caller's signal ended the request.
 * - `bad_url`, `no_websocket`: `connect` was called with something that cannot work.
 * - `no_token`: the `token` callback failed, took too long, or gave no token.
 * - `refused`: the server refused the connection; `details.status` is the HTTP status.
 * - `bad_frame`: the server sent an invalid envelope.
 * - `overrun`: a stream's reader fell too far behind; `details.position` is where to go on from.
 * - `bad_storage`: positions could not be loaded or saved.
 * - `load_failed`: the `load` of a view threw something else than a TowpathError, or gave no position.
 */
export type LocalErrorCode =
  | "timeout"
  | "queue_full"
  | "closed"
  | "aborted"
  | "bad_url"
  | "no_websocket"
  | "no_token"
  | "refused"
  | "bad_frame"
  | "overrun"
  | "bad_storage"
  | "load_failed";

export type ErrorCode = WireErrorCode | LocalErrorCode | (string & {});

/** The fields of an error besides its code and message. */
export interface TowpathErrorFields {
  /** Whether the same request, with the same `msgId`, can succeed later. Default: no. */
  retryable?: boolean | undefined;
  /** Particulars, such as `{fields: […]}`. */
  details?: Record<string, any> | undefined;
  /** When to try again, in milliseconds from now. */
  retryAfterMs?: number | undefined;
  traceId?: string | undefined;
  /** The request it answers. */
  msgId?: string | undefined;
  cause?: unknown;
}

/** Why a request failed, or what went wrong in the background. The message is fit to be shown to people. */
export class TowpathError extends Error {
  declare readonly code: ErrorCode;
  declare readonly retryable: boolean;
  declare details: Record<string, any> | undefined;
  declare readonly retryAfterMs: number | undefined;
  declare readonly traceId: string | undefined;
  declare msgId: string | undefined;

  constructor(code: ErrorCode, message: string, { cause, retryable = false, ...more }: TowpathErrorFields = {}) {
    super(message, cause === undefined ? undefined : { cause });
    Object.assign(this, { name: "TowpathError", code, retryable, ...more });
  }

  /** Reads the `data` of an `error` envelope, however odd it is. */
  static fromWire(data: Record<string, unknown>, msgId?: string): TowpathError {
    const { code, message, retryable, details, retry_after_ms, trace_id } = data;
    return new TowpathError(text(code) ?? "internal", text(message) ?? "The server did not say what went wrong.", {
      retryable: retryable === true,
      details: isObject(details) ? details : undefined,
      retryAfterMs: isFiniteNumber(retry_after_ms) ? retry_after_ms : undefined,
      traceId: text(trace_id),
      msgId,
    });
  }
}

/** A caller's signal ended it. */
export function aborted(signal: AbortSignal, more?: TowpathErrorFields): TowpathError {
  return new TowpathError("aborted", "The caller gave it up.", { cause: signal.reason, ...more });
}

/** `value` if it is text. */
export function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `value` if it is a number that can be a span of time or a size. */
export function positive(value: unknown): number | undefined {
  return isFiniteNumber(value) && value > 0 ? value : undefined;
}

export function isFiniteNumber(value: unknown): value is number {
  return Number.isFinite(value);
}

/** The message of an unknown thrown value. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
