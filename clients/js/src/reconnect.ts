/**
 * The wait before a reconnect.
 *
 * Waiting times use full jitter, the first one included, so that the users of a restarted gateway do not return all at
 * once (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
 */
import { positive } from "./errors.js";
import { FIRST_CEILING_MS, LAST_CEILING_MS, LONGEST_ADVICE_MS } from "./times.js";

/** A range to draw a wait from, evenly. */
export interface Wait {
  min_ms: number;
  max_ms: number;
}

/**
 * The range to draw the next wait from. The server's advice is a floor and the jitter comes on top of it; otherwise
 * all clients with the same advice would reconnect together.
 *
 * @param attempt 0 for the first.
 * @param adviceMs What the server asked for, see {@link advised}.
 * @param firstMs The least ceiling.
 */
export function backoff(attempt: number, adviceMs: number, firstMs = FIRST_CEILING_MS): Wait {
  const ceiling = Math.min(LAST_CEILING_MS, Math.max(firstMs, FIRST_CEILING_MS * 2 ** attempt));
  return { min_ms: adviceMs, max_ms: adviceMs + ceiling };
}

/** The wait that a `retry_after_ms` asks for, within reason; 0 when there is none or it makes no sense. */
export function advised(retryAfterMs: unknown): number {
  return Math.min(positive(retryAfterMs) ?? 0, LONGEST_ADVICE_MS);
}
