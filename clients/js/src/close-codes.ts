/**
 * The meaning of a close code for the client: reconnect or not, to this address or the next.
 *
 * Codes carry the verdict by range, so that old clients obey new codes: 4000-4499 reconnect, 4500-4999 don't.
 */
export const DONE = 1000;
export const ABNORMAL = 1006;
export const HEARTBEAT_LOST = 4002;
export const TOKEN_EXPIRED = 4003;

/** Done, a binary frame, a frame too large: the same would happen again. */
const FINAL = new Set([DONE, 1003, 1009]);

/** The replica is gone or going: another address is the better bet. */
const REPLICA_GONE = new Set([1001, ABNORMAL, 1012, 1013, HEARTBEAT_LOST]);

export function shouldReconnect(code: number): boolean {
  return code >= 4000 && code <= 4999 ? code < 4500 : !FINAL.has(code);
}

export function shouldMoveOn(code: number): boolean {
  return REPLICA_GONE.has(code);
}
