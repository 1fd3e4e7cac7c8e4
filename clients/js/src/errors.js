/**
 * What can go wrong, as data with a code.
 *
 * A code comes from the wire (`forbidden`, `conflict`, `unavailable` …) or from this side:
 *
 * - `timeout`: no answer in time. Outcome unknown: ask again with the same `msgId`.
 * - `queue_full`: too many requests wait for a connection; this one was not taken.
 * - `closed`: the client is closed, so no answer can come.
 * - `aborted`: the caller's signal ended the request.
 * - `bad_url`, `no_websocket`: `connect` was called with something that cannot work.
 * - `no_token`: the `token` callback failed or gave no token.
 * - `bad_frame`: the server sent something that is no envelope.
 *
 * `details.sent === false` says for certain that the request never left and had no effect.
 */
export class TowpathError extends Error {
  /**
   * @param {string} code
   * @param {string} message What was wrong and what to do; fit to be shown to people.
   * @param {{retryable?: boolean, details?: object, retryAfterMs?: number, traceId?: string, msgId?: string,
   *   cause?: unknown}} [more]
   */
  constructor(code, message, { retryable = false, details, retryAfterMs, traceId, msgId, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "TowpathError";
    this.code = code;
    this.retryable = retryable;
    this.details = details;
    this.retryAfterMs = retryAfterMs;
    this.traceId = traceId;
    this.msgId = msgId;
  }

  /**
   * Reads the `data` of an `error` envelope, however odd it is.
   *
   * @param {Record<string, any>} data
   * @param {string} [msgId] The request it answers.
   */
  static fromWire(data, msgId) {
    return new TowpathError(
      typeof data.code === "string" ? data.code : "internal",
      typeof data.message === "string" ? data.message : "The server reported an error without saying which.",
      {
        retryable: data.retryable === true,
        details: isObject(data.details) ? data.details : undefined,
        retryAfterMs: Number.isFinite(data.retry_after_ms) ? data.retry_after_ms : undefined,
        traceId: typeof data.trace_id === "string" ? data.trace_id : undefined,
        msgId,
      },
    );
  }
}

/** @param {unknown} value */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
