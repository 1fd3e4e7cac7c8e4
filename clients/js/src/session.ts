/**
 * The session: what the client knows and decides. Events in, actions out; no sockets, no timers, no randomness.
 *
 * `handle(event, now)` takes one event and returns the actions that follow, in order. Guarantees:
 *
 * - Every request ends in exactly one `resolve` or `reject`.
 * - Requests leave in the order they were made, again after every reconnect until answered, with the same `msg_id`.
 * - Durable pushes are put out in order, each once (see positions.ts).
 * - A view gets a state and then every later change, each once (see views.ts).
 * - After `state closed` nothing is put out any more, except the `reject` of a request, or the `view_failed` of a view,
 *   that is made then.
 *
 * The same machine exists in other languages; libs/protocol/vectors/session says what all of them do.
 */
import { ABNORMAL, DONE, HEARTBEAT_LOST, TOKEN_EXPIRED, shouldMoveOn, shouldReconnect } from "./close-codes.js";
import { decode, encode, isDurable } from "./envelope.js";
import type { Envelope } from "./envelope.js";
import { TowpathError, isFiniteNumber, positive, text } from "./errors.js";
import type { Action, Disconnected, Event, Purpose, RequestMade, State } from "./events.js";
import { advised, backoff } from "./reconnect.js";
import { Requests } from "./requests.js";
import { Resumption } from "./resumption.js";
import {
  DEFAULT_HEARTBEAT_MS,
  PONG_TIME_MS,
  REFRESH_AGAIN_MS,
  SPREAD_MS,
  STEADY_MS,
  WELCOME_TIME_MS,
} from "./times.js";
import type { Views } from "./views.js";

export interface SessionOptions {
  urls: readonly string[];
  /** Makes the session's own message ids unique. */
  idPrefix: string;
  positions?: Record<string, number> | undefined;
  queueLimit?: number | undefined;
}

const CLOSED = "The client is closed; connect again.";

/** Never a push: without its request, it is late. */
const ANSWER = /^(error|accepted|pong)$|\.ok$/;

export class Session {
  state: State = "connecting";
  /** How the last connection, or attempt at one, ended: the end of a sentence for people. */
  lastAttempt = "";
  /** The state of the connection. */
  #phase: "idle" | "token" | "socket" | "open" | "waiting" | "closed" = "idle";
  readonly #urls: readonly string[];
  #url = 0;
  readonly #idPrefix: string;
  #ids = 0;
  #token: string | null = null;
  #attempt = 0;
  #notBefore = 0;
  /** The server's goodbye, if it said one. */
  #closing: Record<string, unknown> = {};
  #heartbeat = DEFAULT_HEARTBEAT_MS;
  #everOpen = false;
  #openedAt = 0;
  #heardAt = 0;
  #pinged = false;
  #refreshing: string | null = null;
  readonly #requests: Requests;
  readonly #resumption: Resumption;
  readonly #views: Views;
  readonly #timers = new Set<string>();
  #now = 0;
  #actions: Action[] = [];

  constructor({ urls, idPrefix, positions = {}, queueLimit = 256 }: SessionOptions) {
    this.#urls = urls;
    this.#idPrefix = idPrefix;
    const act = (action: Action) => this.#act(action);
    const ask = (action: string, data: object) => this.#ask(action, data);
    this.#resumption = new Resumption(positions, act, ask, () => this.#now);
    this.#views = this.#resumption.views;
    this.#requests = new Requests(queueLimit, act, (stream, ...said) => this.#resumption.opened(stream, ...said));
  }

  /** The last `seq` of each stream that was put out. */
  get positions(): Record<string, number> {
    return this.#resumption.positions;
  }

  /**
   * @param now Unix milliseconds.
   * @returns what is to be done, in order
   */
  handle(event: Event, now: number): Action[] {
    this.#now = now;
    this.#actions = [];
    (this.#takes[event.type] as (event: Event) => void)(event);
    return this.#actions;
  }

  readonly #takes: { [Type in Event["type"]]: (event: Extract<Event, { type: Type }>) => void } = {
    start: () => this.#connect(),
    token: (event) => (event.purpose === "connect" ? this.#tokenForConnect(event.token) : this.#refresh(event.token)),
    token_failed: (event) =>
      event.purpose === "connect" ? this.#connectFailed(event.error) : this.#refreshFailed(event.error),
    frame: (event) => this.#frame(event.text),
    disconnected: (event) => this.#lost(event),
    timer: (event) => this.#timer(event.timer),
    request: (event) => this.#request(event),
    abandon: (event) => this.#requests.reject(event.msg_id, event.error),
    track: (event) => {
      this.#views.wanted(event.stream);
      this.#resumption.track(event.stream, event.seq);
    },
    forget: (event) => this.#forget(event.stream),
    resume: (event) => this.#resumption.ask(event.domain),
    open_view: (event) => this.#openView(event.view, event.stream),
    close_view: (event) => this.#views.close(event.view),
    reload_view: (event) => this.#views.reload(event.view),
    loaded: (event) => this.#views.loaded(event.view, event.seq, event.state),
    load_failed: (event) => this.#views.loadFailed(event.view, event.error),
    network: () => this.#network(),
    close: () => this.#end(new TowpathError("closed", "The client was closed."), DONE),
  };

  /** By the first word of a timer's name; the rest says which one. */
  readonly #goesOff: Record<string, (which: string) => void> = {
    reconnect: () => this.#connect(),
    welcome: () => this.#drop(ABNORMAL, "no session.welcome in time"),
    quiet: () => this.#quiet(),
    pong: () => this.#drop(HEARTBEAT_LOST, "no answer to a ping"),
    refresh: () => this.#fetchToken("refresh"),
    resume: (domain) => this.#resumption.timeUp(domain),
    request: (msgId) => this.#requests.timeUp(msgId, this.lastAttempt),
    view: (view) => this.#views.timeUp(view),
  };

  /** Messages of the gateway itself. A map: an action may have the name of an object's property. */
  readonly #gatewayMessages = new Map<string, (data: Record<string, unknown>) => void>([
    ["session.welcome", (data) => this.#welcome(data)],
    ["session.expiring", () => this.#fetchToken("refresh")],
    ["session.closing", (data) => void (this.#closing = data)],
    ["session.resync", () => this.#resumption.ask()],
  ]);

  /** Whether there is a socket: what it says counts. */
  get #connected(): boolean {
    return this.#phase === "socket" || this.#phase === "open";
  }

  // -- connecting

  #connect(): void {
    if (this.#phase === "closed") return;
    this.#phase = "token";
    if (this.#token === null) this.#fetchToken("connect");
    else this.#tokenForConnect(this.#token);
  }

  #tokenForConnect(token: string): void {
    if (this.#phase !== "token") return;
    this.#token = token;
    this.#phase = "socket";
    this.#closing = {};
    this.#act({ do: "connect", url: this.#urls[this.#url % this.#urls.length] as string, token });
    this.#set("welcome", WELCOME_TIME_MS);
  }

  #connectFailed(error: TowpathError): void {
    if (this.#phase !== "token") return;
    if (!error.retryable) return this.#end(error);
    this.#ended(error.message);
    this.#report(error);
    this.#retry(null, error.message);
  }

  #welcome(data: Record<string, unknown>): void {
    if (this.#phase !== "socket") return;
    const { heartbeat_ms, max_frame_bytes } = data;
    this.#phase = "open";
    this.#everOpen = true;
    this.#openedAt = this.#now;
    this.#heartbeat = positive(heartbeat_ms) ?? DEFAULT_HEARTBEAT_MS;
    this.#cancel("welcome");
    this.#set("quiet", 2 * this.#heartbeat);
    this.#act({ do: "welcome", data });
    this.#become("open");
    this.#resumption.start();
    this.#requests.open(max_frame_bytes);
  }

  #lost({ code, reason, status, retry_after_ms }: Disconnected): void {
    if (!this.#connected) return;
    const wasOpen = this.#phase === "open";
    const announced = this.#closing;
    // When the close frame got lost, what the server announced counts.
    const verdict = code === ABNORMAL && isFiniteNumber(announced["code"]) ? announced["code"] : code;
    this.#quieten();
    if (wasOpen && this.#now - this.#openedAt >= STEADY_MS) this.#attempt = 0;
    // A refused token looks like any other failed connect to a browser, so a failed connect asks for a new one.
    if (!wasOpen || verdict === TOKEN_EXPIRED) this.#token = null;
    if (!wasOpen || shouldMoveOn(verdict)) this.#url += 1;
    const why = reason || text(announced["reason"]) || "no reason given";
    this.#ended(status === undefined ? `${verdict}: ${why}` : `HTTP ${status}`);
    if (shouldReconnect(verdict)) {
      if (status !== undefined) this.#report(refused(status, retry_after_ms));
      return this.#retry(verdict, reason, retry_after_ms);
    }
    this.#end(
      new TowpathError("closed", `The server closed it for good (${verdict}: ${why}).`, {
        details: { close_code: verdict, reason: why },
      }),
    );
  }

  #ended(how: string): void {
    this.lastAttempt = `; the last attempt: ${how.replace(/\.$/, "")}`;
  }

  #retry(code: number | null, reason: string, retryAfterMs?: number): void {
    this.#phase = "waiting";
    this.#become(this.#everOpen ? "recovering" : "connecting");
    const advice = Math.max(advised(this.#closing["retry_after_ms"]), advised(retryAfterMs));
    // A replica takes a second or two to be back: who comes too early must not wait long for the next attempt.
    const wait = this.#everOpen ? backoff(this.#attempt - 1, advice, SPREAD_MS) : backoff(this.#attempt, advice);
    this.#notBefore = this.#now + wait.min_ms;
    this.#attempt += 1;
    this.#act({ do: "timer", timer: "reconnect", ...wait });
    this.#act({ do: "retry", attempt: this.#attempt, code, reason });
  }

  /** The network may be back, or another one: don't sit out a long wait, and don't trust the old connection. */
  #network(): void {
    if (this.#phase === "waiting") {
      this.#attempt = 0;
      const wait = backoff(0, advised(this.#notBefore - this.#now));
      this.#act({ do: "timer", timer: "reconnect", ...wait });
    } else if (this.#phase === "open" && !this.#pinged) this.#ping();
  }

  /** Ends the connection from this side, without waiting for a peer that may be gone. */
  #drop(code: number, reason: string): void {
    this.#act({ do: "disconnect", code: HEARTBEAT_LOST, reason });
    this.#lost({ type: "disconnected", code, reason });
  }

  /** @param goodbye The close code for the server, if there is a connection. */
  #end(error: TowpathError, goodbye?: number): void {
    if (this.#phase === "closed") return;
    if (goodbye !== undefined && this.#connected) this.#act({ do: "disconnect", code: goodbye, reason: "" });
    this.#quieten();
    this.#cancel("reconnect");
    this.#phase = "closed";
    this.#requests.end(error);
    this.#views.end(error);
    this.#become("closed", error);
  }

  /** Stops what belongs to one connection. */
  #quieten(): void {
    for (const timer of ["welcome", "quiet", "pong", "refresh"]) this.#cancel(timer);
    this.#pinged = false;
    this.#refreshing = null;
    this.#requests.hold();
    this.#resumption.stop();
  }

  // -- frames

  #frame(text: unknown): void {
    if (!this.#connected) return;
    this.#heard();
    const envelope = decode(text);
    if (envelope === null) {
      const excerpt = String(text).slice(0, 80);
      return this.#report(new TowpathError("bad_frame", `The server sent an invalid envelope: ${excerpt}`));
    }
    if (typeof envelope.correlation_id === "string" && this.#answer(envelope)) return;
    if (envelope.action === "error") return this.#report(TowpathError.fromWire(envelope.data));
    this.#gatewayMessages.get(envelope.action)?.(envelope.data);
    if (isDurable(envelope)) this.#resumption.arrive(envelope);
    else this.#act({ do: "push", envelope });
  }

  /** Takes answers, late ones too; says whether it was one. */
  #answer(envelope: Envelope): boolean {
    const { action, correlation_id: id } = envelope;
    if (this.#resumption.answer(envelope) || this.#requests.answer(envelope)) return true;
    if (id === this.#refreshing && action === "error") {
      this.#refreshing = null;
      const error = TowpathError.fromWire(envelope.data);
      this.#report(error);
      if (error.retryable) this.#set("refresh", REFRESH_AGAIN_MS);
    }
    return ANSWER.test(action);
  }

  // -- heartbeat: any frame shows that the other side lives

  #heard(): void {
    this.#heardAt = this.#now;
    if (!this.#pinged) return;
    this.#pinged = false;
    this.#cancel("pong");
    this.#set("quiet", 2 * this.#heartbeat);
  }

  /** Set once per span of silence, not per frame: it looks how long the silence is when it goes off. */
  #quiet(): void {
    if (this.#pinged) return;
    const left = 2 * this.#heartbeat - Math.max(0, this.#now - this.#heardAt);
    if (left > 0) this.#set("quiet", left);
    else this.#ping();
  }

  #ping(): void {
    this.#pinged = true;
    this.#ask("ping", {});
    this.#set("pong", PONG_TIME_MS);
  }

  // -- requests and streams

  #request({ timeout_ms, stream, ...fields }: RequestMade): void {
    const { msg_id, action } = fields;
    let text;
    try {
      text = encode({ ...fields, timestamp: this.#now });
    } catch (cause) {
      const error = new TowpathError("invalid_data", `JSON cannot hold this data: ${cause}`, { cause });
      return this.#requests.refuse(msg_id, error);
    }
    if (this.#phase === "closed") {
      return this.#requests.refuse(msg_id, new TowpathError("closed", CLOSED));
    }
    this.#requests.add({ msg_id, action, text, stream });
    if (!this.#requests.has(msg_id)) return;
    if (stream !== undefined) {
      this.#views.wanted(stream);
      this.#resumption.open(stream);
    }
    if (timeout_ms !== undefined) this.#set(`request:${msg_id}`, timeout_ms);
  }

  #openView(view: string, stream: string): void {
    if (this.#phase !== "closed") return this.#views.open(view, stream);
    this.#act({ do: "view_failed", view, error: new TowpathError("closed", CLOSED) });
  }

  #forget(stream: string): void {
    this.#requests.forget(stream);
    this.#resumption.forget(stream);
  }

  #refresh(token: string): void {
    this.#token = token;
    if (this.#phase === "open") this.#refreshing = this.#ask("session.refresh", { token });
  }

  #refreshFailed(error: TowpathError): void {
    if (this.#phase !== "open") return;
    this.#report(error);
    this.#set("refresh", REFRESH_AGAIN_MS);
  }

  // -- timers

  #timer(name: string): void {
    if (!this.#timers.delete(name)) return; // it went off while it was being cancelled
    const [kind, ...which] = name.split(":");
    this.#goesOff[kind as string]?.(which.join(":"));
  }

  #set(timer: string, ms: number): void {
    this.#act({ do: "timer", timer, min_ms: ms, max_ms: ms });
  }

  #cancel(timer: string): void {
    this.#act({ do: "cancel", timer });
  }

  // -- putting actions out

  #fetchToken(purpose: Purpose): void {
    this.#act({ do: "fetch_token", purpose });
  }

  #report(error: TowpathError): void {
    this.#act({ do: "report", error });
  }

  /** Sends a request of the session's own; not kept over a reconnect. */
  #ask(action: string, data: object): string {
    const msg_id = `${this.#idPrefix}-${(this.#ids += 1)}`;
    this.#act({ do: "send", text: encode({ msg_id, timestamp: this.#now, action, data }) });
    return msg_id;
  }

  #become(state: State, error?: TowpathError): void {
    if (this.state === state) return;
    this.state = state;
    this.#act({ do: "state", state, error });
  }

  /** Puts an action out; a timer that is not set needs no `cancel`. */
  #act(action: Action): void {
    if (action.do === "timer") this.#timers.add(action.timer);
    if (action.do === "cancel" && !this.#timers.delete(action.timer)) return;
    this.#actions.push(action);
  }
}

function refused(status: number, retryAfterMs: number | undefined): TowpathError {
  return new TowpathError("refused", `The server refused the connection: HTTP ${status}.`, {
    retryable: true,
    details: { status },
    retryAfterMs,
  });
}
