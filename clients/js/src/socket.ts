/**
 * One WebSocket, whichever implementation it is: text in, text out, and one word when it ends.
 *
 * - `ended` is called once, and nothing is heard after it or after `close`.
 * - Nothing here throws.
 */
import { ABNORMAL } from "./close-codes.js";
import { SUBPROTOCOL, TOKEN_PREFIX } from "./envelope.js";
import { messageOf } from "./errors.js";
import { attempt } from "./listeners.js";
import { CLOSE_TIME_MS } from "./times.js";

/** The used part of a WebSocket. */
export interface WebSocketLike {
  readonly readyState: number;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** How a connection ended, or why there was none. */
export interface Ending {
  code: number;
  reason: string;
  /** HTTP status of a refused upgrade, where the implementation has it. */
  status?: number | undefined;
}

export interface SocketEvents {
  text: (text: unknown) => void;
  ended: (ending: Ending) => void;
  report: (error: unknown) => void;
}

const OPEN = 1; // WebSocket.OPEN

/** The `ws` package's message for a refused upgrade. */
const REFUSED = /^Unexpected server response: (\d{3})$/;

export interface Socket {
  /** A frame for a closing socket is lost; the session sends it again on the next one. */
  send(text: string): void;
  /** Lets go of it at once: closing a connection that is dead can take a browser a minute. */
  close(code: number, reason: string): void;
}

export function openSocket(
  WebSocket: WebSocketConstructor,
  url: string,
  token: string,
  { text, ended, report }: SocketEvents,
): Socket {
  let socket: WebSocketLike | undefined;
  let over = false;
  let failure = "";
  let closing: ReturnType<typeof setTimeout> | undefined;

  const release = () => {
    over = true;
    clearTimeout(closing);
    if (socket === undefined) return;
    socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // `ws` still reports that it was closed while connecting, and throws without a listener
  };
  const end = ({ code = ABNORMAL, reason = "" }: Partial<Ending>) => {
    if (over) return;
    release();
    const status = REFUSED.exec(failure)?.[1];
    ended({ code, reason: reason || failure, status: Number(status) || undefined });
  };

  try {
    socket = new WebSocket(url, [SUBPROTOCOL, TOKEN_PREFIX + token]);
    socket.onmessage = ({ data }) => text(data);
    socket.onclose = end;
    // Browsers say nothing here, others say what went wrong. A close event follows; Node 20 leaves it out.
    socket.onerror = ({ message, error }) => {
      failure = String(message || error?.message || "");
      closing ??= setTimeout(() => end({}), CLOSE_TIME_MS);
    };
  } catch (error) {
    report(error);
    queueMicrotask(() => end({ reason: messageOf(error) }));
  }

  return {
    send: (text) => {
      if (socket?.readyState === OPEN) attempt(() => socket?.send(text), [], report);
    },
    close: (code, reason) => {
      release();
      attempt(() => socket?.close(code, reason), [], report);
    },
  };
}
