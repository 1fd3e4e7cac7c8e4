/** How long the client waits for what, in milliseconds. */

/** For the final answer to a request; unless the application says otherwise, as with the next. */
export const REQUEST_TIME_MS = 30_000;

/** For being open. */
export const OPEN_TIME_MS = 30_000;

/** For what the application gives: a token, kept positions. */
export const GIVEN_TIME_MS = 30_000;

/** For one load of a view, which may be several requests. */
export const LOAD_TIME_MS = 60_000;

/** From the attempt to connect to the server's welcome. */
export const WELCOME_TIME_MS = 10_000;

/** For the answer to a ping. */
export const PONG_TIME_MS = 5_000;

/** How soon after an error a socket has to say that it is closed. */
export const CLOSE_TIME_MS = 1_000;

/** For a resume. It waits in the broker while its service is down, so there is no hurry to ask again. */
export const RESUME_TIME_MS = 30_000;

/** Before a refresh that failed is tried again. */
export const REFRESH_AGAIN_MS = 10_000;

/** How often the server wants to hear something, where it does not say. */
export const DEFAULT_HEARTBEAT_MS = 25_000;

/** A connection, or the state of a view, that held this long has earned a fresh backoff; one that flaps has not. */
export const STEADY_MS = 10_000;

/** The first ceiling of a backoff, where one client alone has a reason to wait. */
export const FIRST_CEILING_MS = 1_000;

/** The least ceiling once a connection was lost: all clients of a replica lose theirs in the same second. */
export const SPREAD_MS = 6_000;

/** However often it failed. */
export const LAST_CEILING_MS = 30_000;

/** Whatever the server advises. */
export const LONGEST_ADVICE_MS = 300_000;

/** Past it setTimeout goes off at once. */
export const LONGEST_TIMER_MS = 2_147_483_647;
