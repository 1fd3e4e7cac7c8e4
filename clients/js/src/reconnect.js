/**
 * When to come back, and how soon.
 *
 * Close codes carry the verdict by range, so that old clients obey new codes: 4000-4499 reconnect, 4500-4999
 * don't. Waiting times use full jitter, the first one included, so that the users of a restarted gateway do not
 * return all at once (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 */
export const TOKEN_EXPIRED = 4003;
export const HEARTBEAT_LOST = 4002;
export const ABNORMAL = 1006;

const FIRST_CEILING_MS = 1_000;
const LAST_CEILING_MS = 30_000;
const LONGEST_ADVICE_MS = 300_000;

/** Done, a binary frame, a frame too large: the same would happen again. */
const FINAL = new Set([1000, 1003, 1009]);

/** The replica is gone or going: another address is the better bet. */
const REPLICA_GONE = new Set([1001, ABNORMAL, 1012, 1013, HEARTBEAT_LOST]);

/** @param {number} code */
export function shouldReconnect(code) {
  return code >= 4000 && code <= 4999 ? code < 4500 : !FINAL.has(code);
}

/** @param {number} code */
export function shouldMoveOn(code) {
  return REPLICA_GONE.has(code);
}

/**
 * The range to draw the next wait from, in milliseconds. The server's advice is a floor and the jitter comes on
 * top of it; otherwise everybody advised alike would return together.
 *
 * @param {number} attempt 0 for the first.
 * @param {unknown} [adviceMs] `retry_after_ms`, if there was any.
 * @returns {{min_ms: number, max_ms: number}}
 */
export function backoff(attempt, adviceMs) {
  const floor = typeof adviceMs === "number" && adviceMs > 0 ? Math.min(adviceMs, LONGEST_ADVICE_MS) : 0;
  return { min_ms: floor, max_ms: floor + Math.min(FIRST_CEILING_MS * 2 ** attempt, LAST_CEILING_MS) };
}
