/**
 * The driver: does with a WebSocket and timers what the session decides, and hands results to the application.
 *
 * Nothing is left unhandled: a listener, a token callback or a socket that fails ends up at `onError`, or on the
 * console where nobody listens; a rejected request that nobody awaits stays quiet.
 */
import { SUBPROTOCOL, TOKEN_PREFIX, isId } from "./envelope.js";
import { TowpathError } from "./errors.js";
import { ABNORMAL } from "./reconnect.js";
import { Session } from "./session.js";

const DEFAULT_TIMEOUT_MS = 30_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1; // past it setTimeout goes off at once
const OPEN = 1; // WebSocket.OPEN

/**
 * Opens a client. It connects in the background and stays connected until `close()`; requests may be made at once.
 *
 * @param {import("../index.js").ConnectOptions} options
 */
export function connect(options) {
  return new Client(options);
}

export class Client {
  #session;
  #token;
  /** @type {any} */
  #WebSocket;
  #idPrefix = randomId();
  #ids = 0;
  /** @type {any} */
  #socket = null;
  /** @type {Record<string, any> | null} */
  #connection = null;
  /** @type {TowpathError | undefined} */
  #closedBy;
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #timers = new Map();
  /** @type {Map<string, {resolve: Function, reject: Function, accepted?: Function}>} */
  #waiting = new Map();
  /** @type {Map<string, Set<Function>>} */
  #listeners = new Map();
  /** @type {any[]} */
  #actions = [];
  #acting = false;
  #reconnectIn = 0;
  #onNetwork = () => this.#tell({ type: "network" });

  /** @param {import("../index.js").ConnectOptions} options */
  constructor({ url, urls, token, WebSocket = globalThis.WebSocket, positions, queueLimit }) {
    if (typeof WebSocket !== "function") {
      throw new TowpathError("no_websocket", "There is no global WebSocket here; pass one, such as that of `ws`.");
    }
    if (typeof token !== "function") throw new TowpathError("no_token", "Pass `token`, a function that gives a JWT.");
    this.#WebSocket = WebSocket;
    this.#token = token;
    this.#session = new Session({
      urls: checkedUrls(urls ?? (url === undefined ? [] : [url])),
      idPrefix: `${this.#idPrefix}-s`,
      positions: positions ?? {},
      queueLimit,
    });
    globalThis.addEventListener?.("online", this.#onNetwork);
    queueMicrotask(() => this.#tell({ type: "start" })); // the caller's listeners come first
  }

  /** `connecting`, `open`, `recovering` or `closed`. */
  get state() {
    return this.#session.state;
  }

  /** What the server's `session.welcome` said of the connection that is open; else `null`. */
  get connection() {
    return this.#connection;
  }

  /** The last `seq` of each stream; give it to `connect` as `positions` to go on from there. */
  get positions() {
    return this.#session.positions;
  }

  /**
   * Sends a request and gives its final answer. Without a connection it waits for one; after a reconnect it is sent
   * again with the same `msg_id`, so that its effect happens once.
   *
   * @param {string} action
   * @param {object} [data]
   * @param {import("../index.js").RequestOptions} [options]
   * @returns {Promise<any>}
   */
  request(action, data = {}, { key, timeout = DEFAULT_TIMEOUT_MS, signal, ack, msgId } = {}) {
    const msg_id = msgId ?? `${this.#idPrefix}-${(this.#ids += 1)}`;
    const answer = new Promise((resolve, reject) => {
      for (const [name, value] of Object.entries({ msgId: msg_id, key })) {
        if (value === undefined || isId(value)) continue;
        const message = `${name} is ${JSON.stringify(value)}; it takes 1 to 64 of A-Z a-z 0-9 . _ : - (see keyOf).`;
        return reject(new TowpathError("bad_envelope", message, { details: { sent: false } }));
      }
      if (this.#waiting.has(msg_id)) {
        return reject(new TowpathError("conflict", `A request with msgId ${msg_id} is under way already.`));
      }
      if (signal?.aborted) return reject(aborted(signal, msg_id));

      const onAbort = () => this.#tell({ type: "abandon", msg_id, error: aborted(signal, msg_id) });
      signal?.addEventListener("abort", onAbort, { once: true });
      const over = (/** @type {Function} */ settle) => (/** @type {unknown} */ value) => {
        signal?.removeEventListener("abort", onAbort);
        settle(value);
      };
      this.#waiting.set(msg_id, {
        resolve: over(resolve),
        reject: over(reject),
        accepted: typeof ack === "function" ? ack : undefined,
      });
      const timeout_ms = Number.isFinite(timeout) ? timeout : undefined;
      this.#tell({ type: "request", msg_id, action, data, key, ack: Boolean(ack), timeout_ms });
    });
    answer.catch(() => {}); // whoever awaits the answer sees the error; nobody has to
    return answer;
  }

  /**
   * Calls `listener(data, envelope)` for every push with this action; `*` takes all. Besides, `incomplete`
   * (`{stream, seq}`: load that stream's history anew) and `retry` (`{attempt, delayMs, code, reason}`: not
   * connected, and when the next attempt comes).
   *
   * @param {string} action
   * @param {(data: any, envelope: any) => void} listener
   * @returns {() => void} takes the listener off
   */
  on(action, listener) {
    const listeners = this.#listeners.get(action) ?? new Set();
    this.#listeners.set(action, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /**
   * Calls `listener(state, error)` at every change of state; `error` says why it is `closed`.
   *
   * @param {(state: string, error?: TowpathError) => void} listener
   */
  onState(listener) {
    return this.on("state", listener);
  }

  /**
   * Calls `listener(error)` for what goes wrong in the background: a listener that throws, a token that cannot be
   * fetched, a frame that makes no sense. Without a listener it goes to the console.
   *
   * @param {(error: unknown) => void} listener
   */
  onError(listener) {
    return this.on("error", listener);
  }

  /**
   * Resolves once the client is open; rejects when it is closed instead.
   *
   * @returns {Promise<Record<string, any>>} what `connection` holds
   */
  opened() {
    const opened = new Promise((resolve, reject) => {
      const off = this.onState(() => settle());
      const settle = () => {
        if (this.state === "open") resolve(this.#connection);
        else if (this.state === "closed") reject(this.#closedBy);
        else return;
        off();
      };
      settle();
    });
    opened.catch(() => {});
    return /** @type {any} */ (opened);
  }

  /**
   * Takes a stream's position from elsewhere, such as the answer to `chat.join`, so that nothing after it is missed.
   * A position that is known already stays.
   *
   * @param {string} stream
   * @param {number} seq
   */
  track(stream, seq) {
    this.#tell({ type: "track", stream, seq });
  }

  /**
   * Drops a stream's position: it is not resumed any more.
   *
   * @param {string} stream
   */
  forget(stream) {
    this.#tell({ type: "forget", stream });
  }

  /**
   * Asks for what was missed in all streams of a domain, or of all. The client does so by itself after a reconnect
   * and on a hole; call it after `track` for streams that this connection has not heard of yet.
   *
   * @param {string} [domain]
   */
  resume(domain) {
    this.#tell({ type: "resume", domain });
  }

  /** Ends the session for good. Requests without an answer are rejected with `closed`. */
  close() {
    this.#tell({ type: "close" });
  }

  /** @type {Record<string, (action: any) => void>} */
  #does = {
    fetch_token: ({ purpose }) => void this.#fetchToken(purpose),
    connect: ({ url, token }) => this.#open(url, token),
    disconnect: ({ code, reason }) => this.#drop(code, reason),
    send: ({ text }) => this.#send(text),
    timer: ({ timer, min_ms, max_ms }) => this.#setTimer(timer, min_ms, max_ms),
    cancel: ({ timer }) => this.#cancelTimer(timer),
    resolve: ({ msg_id, data }) => this.#take(msg_id)?.resolve(data),
    reject: ({ msg_id, error }) => this.#take(msg_id)?.reject(error),
    accepted: ({ msg_id }) => this.#call(this.#waiting.get(msg_id)?.accepted),
    retry: ({ attempt, code, reason }) => this.#emit("retry", { attempt, code, reason, delayMs: this.#reconnectIn }),
    push: ({ envelope }) => this.#push(envelope),
    incomplete: ({ stream, seq }) => this.#emit("incomplete", { stream, seq }),
    welcome: ({ data }) => (this.#connection = data),
    state: ({ state, error }) => this.#changed(state, error),
    report: ({ error }) => this.#report(error),
  };

  /**
   * Gives the session an event and does what follows. An event that comes up meanwhile (a listener makes a request)
   * has its actions done after those in hand, so that the order stays the session's.
   *
   * @param {{type: string, [field: string]: unknown}} event
   */
  #tell(event) {
    this.#actions.push(...this.#session.handle(event, Date.now()));
    if (this.#acting) return;
    this.#acting = true;
    try {
      for (let action = this.#actions.shift(); action; action = this.#actions.shift()) this.#does[action.do](action);
    } finally {
      this.#acting = false;
    }
  }

  /** @param {"connect" | "refresh"} purpose */
  async #fetchToken(purpose) {
    try {
      const token = await this.#token();
      if (typeof token !== "string" || token === "") {
        throw new TowpathError(
          "no_token",
          `token() gave ${typeof token === "string" ? "an empty string" : typeof token}.`,
        );
      }
      this.#tell({ type: "token", purpose, token });
    } catch (cause) {
      const said = cause instanceof Error ? cause.message : String(cause);
      const error =
        cause instanceof TowpathError
          ? cause
          : new TowpathError("no_token", `token() failed: ${said}`, { retryable: true, cause });
      this.#tell({ type: "token_failed", purpose, error });
    }
  }

  /**
   * @param {string} url
   * @param {string} token
   */
  #open(url, token) {
    const closed = (/** @type {number} */ code, /** @type {string} */ reason) => {
      this.#release();
      this.#tell({ type: "disconnected", code, reason });
    };
    try {
      const socket = new this.#WebSocket(url, [SUBPROTOCOL, TOKEN_PREFIX + token]);
      this.#socket = socket;
      socket.onmessage = (/** @type {{data: any}} */ { data }) => this.#tell({ type: "frame", text: data });
      socket.onclose = (/** @type {any} */ { code, reason }) => closed(code ?? ABNORMAL, reason ?? "");
      socket.onerror = () => {}; // a close event follows and says the same
    } catch (error) {
      this.#report(error);
      queueMicrotask(() => closed(ABNORMAL, error instanceof Error ? error.message : String(error)));
    }
  }

  /**
   * Lets go of the socket at once: closing a connection that is dead can take a browser a minute.
   *
   * @param {number} code
   * @param {string} reason
   */
  #drop(code, reason) {
    const socket = this.#socket;
    this.#release();
    try {
      socket?.close(code, reason);
    } catch (error) {
      this.#report(error);
    }
  }

  #release() {
    if (this.#socket !== null) this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket = null;
    this.#connection = null;
  }

  /** @param {string} text */
  #send(text) {
    // A socket that is closing loses it; the session sends it again on the next one.
    if (this.#socket?.readyState === OPEN) this.#socket.send(text);
  }

  /**
   * @param {string} name
   * @param {number} least
   * @param {number} most
   */
  #setTimer(name, least, most) {
    this.#cancelTimer(name);
    const ms = Math.min(least + Math.random() * (most - least), LONGEST_TIMER_MS);
    const goOff = () => {
      this.#timers.delete(name);
      this.#tell({ type: "timer", timer: name });
    };
    this.#timers.set(name, setTimeout(goOff, ms));
    if (name === "reconnect") this.#reconnectIn = Math.round(ms);
  }

  /** @param {string} name */
  #cancelTimer(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  /** @param {string} msgId */
  #take(msgId) {
    const request = this.#waiting.get(msgId);
    this.#waiting.delete(msgId);
    return request;
  }

  /**
   * @param {"connecting" | "open" | "recovering" | "closed"} state
   * @param {TowpathError} [error]
   */
  #changed(state, error) {
    if (state === "closed") {
      this.#closedBy = error;
      globalThis.removeEventListener?.("online", this.#onNetwork);
    }
    this.#emit("state", state, error);
  }

  /** @param {Record<string, any>} envelope */
  #push(envelope) {
    if (!envelope.action.includes(".")) return; // a push has a domain; other names are the client's own events
    this.#emit(envelope.action, envelope.data, envelope);
    this.#emit("*", envelope.data, envelope);
  }

  /** @param {unknown} error */
  #report(error) {
    const listeners = this.#listeners.get("error");
    if (!listeners?.size) return console.error(error);
    for (const listener of [...listeners]) {
      try {
        listener(error);
      } catch (worse) {
        console.error(worse);
      }
    }
  }

  /**
   * @param {string} name
   * @param {...unknown} values
   */
  #emit(name, ...values) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) this.#call(listener, ...values);
  }

  /**
   * @param {Function | undefined} listener
   * @param {...unknown} values
   */
  #call(listener, ...values) {
    try {
      const result = listener?.(...values);
      if (typeof result?.then === "function")
        result.then(undefined, (/** @type {unknown} */ error) => this.#report(error));
    } catch (error) {
      this.#report(error);
    }
  }
}

/** @param {readonly string[]} urls */
function checkedUrls(urls) {
  if (urls.length === 0) throw new TowpathError("bad_url", "Pass `url` or `urls`: where the gateway is.");
  for (const url of urls) {
    if (!isWebSocketUrl(url)) {
      throw new TowpathError(
        "bad_url",
        `${JSON.stringify(url)} is no WebSocket address; such as wss://example.org/ws.`,
      );
    }
  }
  return [...urls];
}

/** @param {string} url */
function isWebSocketUrl(url) {
  try {
    return ["ws:", "wss:"].includes(new URL(url).protocol);
  } catch {
    return false;
  }
}

/**
 * @param {AbortSignal | undefined} signal
 * @param {string} msgId
 */
function aborted(signal, msgId) {
  return new TowpathError("aborted", "The caller gave the request up.", { cause: signal?.reason, msgId });
}

function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
