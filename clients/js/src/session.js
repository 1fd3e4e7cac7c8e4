/**
 * The session: what the client knows and decides. Events in, actions out; no sockets, no timers, no randomness.
 *
 * `handle(event, now)` takes one event and returns the actions that follow, in order. Guarantees:
 *
 * - Every request ends in exactly one `resolve` or `reject`.
 * - Requests leave in the order they were made, again after every reconnect until answered, with the same `msg_id`.
 * - Durable pushes are put out in order, each once (see positions.js).
 *
 * Events: `start`, `token {purpose, token}`, `token_failed {purpose, error}`, `frame {text}`,
 * `disconnected {code, reason}`, `timer {timer}`, `request {msg_id, action, data, key?, ack?, timeout_ms?}`,
 * `abandon {msg_id, error}`, `track {stream, seq}`, `forget {stream}`, `resume {domain?}`, `network`, `close`.
 *
 * Actions: `fetch_token {purpose}`, `connect {url, token}`, `disconnect {code, reason}` (after which the socket must
 * not be heard of again), `send {text}`, `timer {timer, min_ms, max_ms}` (sets or resets; drawn evenly from the
 * range), `cancel {timer}`, `resolve {msg_id, data}`, `reject {msg_id, error}`, `accepted {msg_id}`,
 * `push {envelope}`, `incomplete {stream, seq}`, `welcome {data}`, `state {state, error?}`, `retry {attempt, code, reason}`
 * (follows the timer `reconnect`), `report {error}`.
 */
import { byteLength, decode, encode } from "./envelope.js";
import { TowpathError } from "./errors.js";
import { ABNORMAL, HEARTBEAT_LOST, TOKEN_EXPIRED, backoff, shouldMoveOn, shouldReconnect } from "./reconnect.js";
import { Requests } from "./requests.js";
import { Resumption } from "./resumption.js";

const WELCOME_TIME_MS = 10_000;
const PONG_TIME_MS = 5_000;
const REFRESH_AGAIN_MS = 10_000;
const DEFAULT_HEARTBEAT_MS = 25_000;

/** A connection that held this long has earned a fresh backoff; one that flaps has not. */
const STEADY_MS = 10_000;

const GOODBYE = 1000;

export class Session {
  /** @type {"connecting" | "open" | "recovering" | "closed"} what the application sees */
  state = "connecting";
  /** @type {"idle" | "token" | "socket" | "open" | "waiting" | "closed"} where the connection stands */
  #phase = "idle";
  #urls;
  #url = 0;
  #idPrefix;
  #ids = 0;
  /** @type {string | null} */
  #token = null;
  #attempt = 0;
  #notBefore = 0;
  /** @type {{code?: unknown, reason?: unknown, retry_after_ms?: unknown} | null} the server's goodbye, if it said one */
  #closing = null;
  #heartbeat = DEFAULT_HEARTBEAT_MS;
  #everOpen = false;
  #openedAt = 0;
  #heardAt = 0;
  #pinged = false;
  /** @type {string | null} */
  #refreshing = null;
  #requests;
  #resumption;
  #now = 0;
  /** @type {object[]} */
  #actions = [];

  /**
   * @param {{urls: string[], idPrefix: string, positions?: Record<string, number>, queueLimit?: number}} options
   *   `idPrefix` makes the session's own message ids unique.
   */
  constructor({ urls, idPrefix, positions = {}, queueLimit = 256 }) {
    this.#urls = urls;
    this.#idPrefix = idPrefix;
    const act = (/** @type {object} */ action) => this.#act(action);
    this.#requests = new Requests(queueLimit, act);
    this.#resumption = new Resumption(positions, { act, send: (action, data) => this.#ask(action, data) });
  }

  /** The last `seq` of each stream that was put out. */
  get positions() {
    return this.#resumption.positions.toJSON();
  }

  /**
   * @param {{type: string, [field: string]: any}} event
   * @param {number} now Unix milliseconds.
   * @returns {object[]} actions, to be done in order
   */
  handle(event, now) {
    this.#now = now;
    this.#actions = [];
    this.#events[event.type](event);
    return this.#actions;
  }

  /** @type {Record<string, (event: any) => void>} */
  #events = {
    start: () => this.#connect(),
    token: ({ purpose, token }) => (purpose === "refresh" ? this.#refresh(token) : this.#tokenForConnect(token)),
    token_failed: ({ purpose, error }) => this.#tokenFailed(purpose, error),
    frame: ({ text }) => this.#frame(text),
    disconnected: ({ code, reason }) => this.#lost(code, reason),
    timer: ({ timer }) => this.#timer(timer),
    request: (request) => this.#request(request),
    abandon: ({ msg_id, error }) => this.#requests.reject(msg_id, error),
    track: ({ stream, seq }) => this.#resumption.positions.track(stream, seq),
    forget: ({ stream }) => this.#resumption.positions.forget(stream),
    resume: ({ domain }) => this.#resume(domain),
    network: () => this.#network(),
    close: () => this.#end(new TowpathError("closed", "The client was closed."), { code: GOODBYE }),
  };

  /** @type {Record<string, () => void>} */
  #timers = {
    reconnect: () => this.#phase === "waiting" && this.#connect(),
    welcome: () => this.#drop(ABNORMAL, "no session.welcome in time"),
    quiet: () => this.#quiet(),
    pong: () => this.#phase === "open" && this.#drop(HEARTBEAT_LOST, "no answer to a ping"),
    refresh: () => this.#phase === "open" && this.#act({ do: "fetch_token", purpose: "refresh" }),
  };

  /** @type {Record<string, (data: Record<string, any>) => void>} what the gateway tells on its own */
  #told = {
    "session.welcome": (data) => this.#welcome(data),
    "session.expiring": () => this.#act({ do: "fetch_token", purpose: "refresh" }),
    "session.closing": (data) => (this.#closing = data),
    "session.resync": () => this.#resume(),
  };

  // -- connecting

  #connect() {
    if (this.#phase !== "idle" && this.#phase !== "waiting") return;
    this.#phase = "token";
    if (this.#token === null) this.#act({ do: "fetch_token", purpose: "connect" });
    else this.#tokenForConnect(this.#token);
  }

  /** @param {string} token */
  #tokenForConnect(token) {
    if (this.#phase !== "token") return;
    this.#token = token;
    this.#phase = "socket";
    this.#closing = null;
    this.#act({ do: "connect", url: this.#urls[this.#url % this.#urls.length], token });
    this.#set("welcome", WELCOME_TIME_MS);
  }

  /**
   * @param {"connect" | "refresh"} purpose
   * @param {TowpathError} error
   */
  #tokenFailed(purpose, error) {
    if (purpose === "refresh") {
      if (this.#phase !== "open") return;
      this.#act({ do: "report", error });
      return this.#set("refresh", REFRESH_AGAIN_MS);
    }
    if (this.#phase !== "token") return;
    if (!error.retryable) return this.#end(error);
    this.#act({ do: "report", error });
    this.#retry(null, error.message);
  }

  /** @param {Record<string, any>} data */
  #welcome(data) {
    if (this.#phase !== "socket") return;
    this.#phase = "open";
    this.#everOpen = true;
    this.#openedAt = this.#now;
    this.#heartbeat = data.heartbeat_ms > 0 ? data.heartbeat_ms : DEFAULT_HEARTBEAT_MS;
    this.#pinged = false;
    this.#cancel("welcome");
    this.#set("quiet", 2 * this.#heartbeat);
    this.#act({ do: "welcome", data });
    this.#become("open");
    this.#resumption.all();
    this.#requests.open(data.max_frame_bytes);
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #lost(code, reason) {
    if (this.#phase !== "socket" && this.#phase !== "open") return;
    const wasOpen = this.#phase === "open";
    const verdict = this.#verdict(code);
    this.#quieten();
    if (wasOpen && this.#now - this.#openedAt >= STEADY_MS) this.#attempt = 0;
    // A refused token looks like any other failed connect to a browser, so a failed connect asks for a new one.
    if (!wasOpen || verdict === TOKEN_EXPIRED) this.#token = null;
    if (!wasOpen || shouldMoveOn(verdict)) this.#url += 1;
    if (shouldReconnect(verdict)) return this.#retry(verdict, reason);
    const why = reason || this.#closing?.reason || "no reason given";
    this.#end(
      new TowpathError("closed", `The server closed the connection for good (${verdict}: ${why}).`, {
        details: { close_code: verdict, reason: why },
      }),
    );
  }

  /**
   * The close code that counts: when the close frame got lost, what `session.closing` announced.
   *
   * @param {number} code
   */
  #verdict(code) {
    const announced = this.#closing?.code;
    return code === ABNORMAL && typeof announced === "number" ? announced : code;
  }

  /**
   * @param {number | null} code
   * @param {string} reason
   */
  #retry(code, reason) {
    this.#phase = "waiting";
    this.#become(this.#everOpen ? "recovering" : "connecting");
    const wait = backoff(this.#attempt, this.#closing?.retry_after_ms);
    this.#notBefore = this.#now + wait.min_ms;
    this.#attempt += 1;
    this.#act({ do: "timer", timer: "reconnect", ...wait });
    this.#act({ do: "retry", attempt: this.#attempt, code, reason });
  }

  /** The network may be back, or another one: don't sit out a long wait, and don't trust the old connection. */
  #network() {
    if (this.#phase === "waiting") {
      this.#attempt = 0;
      this.#act({ do: "timer", timer: "reconnect", ...backoff(0, this.#notBefore - this.#now) });
    } else if (this.#phase === "open" && !this.#pinged) this.#ping();
  }

  /**
   * Ends the connection from this side, without waiting for a peer that may be gone.
   *
   * @param {number} code
   * @param {string} reason
   */
  #drop(code, reason) {
    if (this.#phase !== "socket" && this.#phase !== "open") return;
    this.#act({ do: "disconnect", code: HEARTBEAT_LOST, reason });
    this.#lost(code, reason);
  }

  /**
   * @param {TowpathError} error
   * @param {{code?: number}} [goodbye]
   */
  #end(error, goodbye) {
    if (this.#phase === "closed") return;
    if (goodbye && (this.#phase === "socket" || this.#phase === "open")) {
      this.#act({ do: "disconnect", code: goodbye.code, reason: "" });
    }
    this.#quieten();
    this.#cancel("reconnect");
    this.#phase = "closed";
    this.#requests.end(error);
    this.#become("closed", error);
  }

  /** Stops what belongs to one connection. */
  #quieten() {
    for (const timer of ["welcome", "quiet", "pong", "refresh"]) this.#cancel(timer);
    this.#refreshing = null;
    this.#requests.hold();
    this.#resumption.stop();
  }

  // -- frames

  /** @param {string} text */
  #frame(text) {
    if (this.#phase !== "socket" && this.#phase !== "open") return;
    this.#heard();
    const envelope = decode(text);
    if (envelope === null) {
      const excerpt = String(text).slice(0, 80);
      return this.#act({
        do: "report",
        error: new TowpathError("bad_frame", `The server sent something that is no envelope: ${excerpt}`),
      });
    }
    if (envelope.correlation_id !== undefined && this.#answer(envelope)) return;
    if (envelope.action === "error") {
      return this.#act({ do: "report", error: TowpathError.fromWire(envelope.data) });
    }
    if (Object.hasOwn(this.#told, envelope.action)) this.#told[envelope.action](envelope.data);
    if (isDurable(envelope)) this.#resumption.arrive(envelope);
    else this.#act({ do: "push", envelope });
  }

  /**
   * Takes answers, late ones too; says whether it was one.
   *
   * @param {Record<string, any>} envelope
   */
  #answer(envelope) {
    const { action, correlation_id: id } = envelope;
    if (this.#resumption.answer(envelope) || this.#requests.answer(envelope)) return true;
    if (id === this.#refreshing && action === "error") {
      this.#refreshing = null;
      const error = TowpathError.fromWire(envelope.data);
      this.#act({ do: "report", error });
      if (error.retryable) this.#set("refresh", REFRESH_AGAIN_MS);
    }
    return action === "error" || action === "accepted" || action === "pong" || action.endsWith(".ok");
  }

  // -- heartbeat: any frame shows that the other side lives

  #heard() {
    this.#heardAt = this.#now;
    if (!this.#pinged) return;
    this.#pinged = false;
    this.#cancel("pong");
    this.#set("quiet", 2 * this.#heartbeat);
  }

  /** Set once per span of silence, not per frame: it looks how long the silence is when it goes off. */
  #quiet() {
    if (this.#phase !== "open" || this.#pinged) return;
    const left = 2 * this.#heartbeat - Math.max(0, this.#now - this.#heardAt);
    if (left > 0) this.#set("quiet", left);
    else this.#ping();
  }

  #ping() {
    this.#pinged = true;
    this.#ask("ping", {});
    this.#set("pong", PONG_TIME_MS);
  }

  // -- requests and streams

  /** @param {{msg_id: string, action: string, data?: object, key?: string, ack?: boolean, timeout_ms?: number}} request */
  #request({ msg_id, timeout_ms, ...fields }) {
    let text;
    try {
      text = encode({ msg_id, timestamp: this.#now, ...fields });
    } catch (cause) {
      const error = new TowpathError("invalid_data", `JSON cannot hold this data: ${cause}`, { cause, msgId: msg_id });
      return this.#act({ do: "reject", msg_id, error });
    }
    if (this.#phase === "closed") {
      const error = new TowpathError("closed", "The client is closed; connect again.", { details: { sent: false } });
      return this.#act({ do: "reject", msg_id, error });
    }
    this.#requests.add({
      msg_id,
      action: fields.action,
      text,
      bytes: byteLength(text),
      timed: timeout_ms !== undefined,
    });
    if (timeout_ms !== undefined && this.#requests.has(msg_id)) this.#set(`request:${msg_id}`, timeout_ms);
  }

  /** @param {string} token */
  #refresh(token) {
    this.#token = token;
    if (this.#phase === "open") this.#refreshing = this.#ask("session.refresh", { token });
  }

  /** @param {string} [domain] */
  #resume(domain) {
    if (this.#phase !== "open") return;
    if (domain === undefined) this.#resumption.all();
    else this.#resumption.domain(domain);
  }

  /** @param {string} name */
  #timer(name) {
    const [kind, ...rest] = name.split(":");
    if (kind === "request") this.#requests.timeUp(rest.join(":"));
    else if (kind === "resume") this.#phase === "open" && this.#resumption.timeUp(rest.join(":"));
    else this.#timers[name]();
  }

  // -- putting actions out

  /**
   * Sends a request of the session's own; not kept over a reconnect.
   *
   * @param {string} action
   * @param {object} data
   */
  #ask(action, data) {
    const msg_id = `${this.#idPrefix}-${(this.#ids += 1)}`;
    this.#act({ do: "send", text: encode({ msg_id, timestamp: this.#now, action, data }) });
    return msg_id;
  }

  /**
   * @param {"connecting" | "open" | "recovering" | "closed"} state
   * @param {TowpathError} [error]
   */
  #become(state, error) {
    if (this.state === state) return;
    this.state = state;
    this.#act({ do: "state", state, error });
  }

  /**
   * @param {string} timer
   * @param {number} ms
   */
  #set(timer, ms) {
    this.#act({ do: "timer", timer, min_ms: ms, max_ms: ms });
  }

  /** @param {string} timer */
  #cancel(timer) {
    this.#act({ do: "cancel", timer });
  }

  /** @param {object} action */
  #act(action) {
    this.#actions.push(action);
  }
}

/** @param {Record<string, any>} envelope */
function isDurable({ stream, seq }) {
  return typeof stream === "string" && stream !== "" && Number.isSafeInteger(seq) && seq >= 1;
}
