/**
 * The driver: does with a WebSocket and timers what the session decides, and hands results to the application.
 *
 * - Actions are done in the session's order, also when a listener brings up the next event amid them.
 * - Nothing is left unhandled: a listener, a token callback, a storage or a socket that fails ends up at `error`, and a
 *   rejected request without an `await` causes no unhandled rejection.
 * - A closed client holds no timer, no socket and no listener of the runtime's.
 */
import { isDurable, isId } from "./envelope.js";
import type { Envelope } from "./envelope.js";
import { TowpathError, aborted, isObject, messageOf } from "./errors.js";
import type { Action, Event, Purpose, State } from "./events.js";
import { Listeners, onAbort } from "./listeners.js";
import type { Saving } from "./saving.js";
import { Session } from "./session.js";
import { openSocket } from "./socket.js";
import type { Socket, WebSocketConstructor } from "./socket.js";
import type { PositionStorage, StreamPositions } from "./storage.js";
import { StreamReader } from "./stream-reader.js";
import type { StreamOptions } from "./stream-reader.js";
import type {
  AnswerOf,
  ClientEvents,
  ConnectOptions,
  Connection,
  DataOf,
  Given,
  Off,
  PushOf,
  RequestArguments,
  RequestOptions,
} from "./surface.js";
import { within } from "./time-limit.js";
import { GIVEN_TIME_MS, LONGEST_TIMER_MS, OPEN_TIME_MS, REQUEST_TIME_MS } from "./times.js";
import { View } from "./view.js";
import type { Load, ViewOptions } from "./view.js";

/** The characters of a WebSocket subprotocol; a JWT has fewer. */
const TOKEN = /^[\w.!#$%&'*+^`|~-]+$/;

/**
 * Opens a client. It connects in the background and stays connected until `close()`; requests may be made at once.
 *
 * @throws TowpathError `bad_url`, `no_websocket` or `no_token` for options that cannot work
 */
export function connect(options: ConnectOptions): Client {
  return new Client(options);
}

type Doing<Name> = Extract<Action, { do: Name }>;

/** A request that waits for its answer. */
interface Waiting {
  resolve: (data: Record<string, any>) => void;
  reject: (error: TowpathError) => void;
  accepted: (() => void) | undefined;
  /** Whatever comes of it, it is not waited for any more. */
  over: () => void;
}

export class Client {
  readonly #session: Session;
  readonly #token: ConnectOptions["token"];
  readonly #WebSocket: WebSocketConstructor;
  #saving: Saving | undefined;
  readonly #idPrefix = randomId();
  #ids = 0;
  #socket: Socket | null = null;
  #connection: Connection | null = null;
  #closedBy: TowpathError | undefined;
  readonly #ended = new AbortController();
  readonly #timers = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #waiting = new Map<string, Waiting>();
  readonly #listeners = new Listeners();
  readonly #readers = new Set<StreamReader>();
  readonly #views = new Map<string, View<any>>();
  #actions: Action[] = [];
  #acting = false;
  #reconnectIn = 0;
  #saved = Promise.resolve();

  constructor({ url, urls, token, WebSocket, positions, storage, queueLimit }: ConnectOptions) {
    const constructor = WebSocket ?? globalThis.WebSocket;
    if (typeof constructor !== "function") {
      throw new TowpathError("no_websocket", "There is no global WebSocket here; pass that of `ws`.");
    }
    if (typeof token !== "function") throw new TowpathError("no_token", "Pass `token`, a function that gives a JWT.");
    this.#WebSocket = constructor;
    this.#token = token;
    this.#session = new Session({
      urls: checkedUrls(urls ?? (url === undefined ? [] : [url])),
      idPrefix: `${this.#idPrefix}-s`,
      positions: positions ?? {},
      queueLimit,
    });
    globalThis.addEventListener?.("online", () => this.#tell({ type: "network" }), { signal: this.#ended.signal });
    queueMicrotask(() => void this.#start(storage)); // the caller's listeners come first
  }

  /** `connecting`, `open`, `recovering` (it was open and will be again) or `closed`. */
  get state(): State {
    return this.#session.state;
  }

  /** The server's `session.welcome` of the open connection; else `null`. */
  get connection(): Connection | null {
    return this.#connection;
  }

  /** The last `seq` of each stream; give it to `connect` as `positions` to go on from there. */
  get positions(): StreamPositions {
    return this.#session.positions;
  }

  /**
   * Sends a request and gives the data of its final answer. Without a connection it waits for one; after a reconnect it
   * is sent again with the same `msg_id`, so that its effect happens once. Rejected with a {@link TowpathError}.
   */
  request<Answer = never>(action: Given<Answer, string>, data?: object, options?: RequestOptions): Promise<Answer>;
  request<Name extends string>(action: Name, ...more: RequestArguments<DataOf<Name>>): Promise<AnswerOf<Name>>;
  request(action: string, data: object = {}, options: RequestOptions = {}): Promise<any> {
    const { key, timeout = REQUEST_TIME_MS, signal, ack, msgId, stream } = options;
    const msg_id = msgId ?? `${this.#idPrefix}-${(this.#ids += 1)}`;
    const answer = new Promise((resolve, reject) => {
      const refusal = this.#refusal(action, data, msg_id, options);
      if (refusal) return reject(refusal);
      const abort = () => this.#tell({ type: "abandon", msg_id, error: aborted(signal as AbortSignal) });
      const accepted = typeof ack === "function" ? ack : undefined;
      this.#waiting.set(msg_id, { resolve, reject, accepted, over: onAbort(signal, abort) });
      const timeout_ms = Number.isFinite(timeout) ? timeout : undefined;
      this.#tell({ type: "request", msg_id, action, data, key, ack: Boolean(ack), timeout_ms, stream });
    });
    answer.catch(() => {}); // an awaiting caller sees the error; others need not handle it
    return answer;
  }

  /**
   * Calls `listener(data, envelope)` for every push with this action; `*` takes all. Besides, the client's own events,
   * see {@link ClientEvents}.
   *
   * @returns a function that removes the listener
   */
  on<Name extends keyof ClientEvents>(event: Name, listener: (...values: ClientEvents[Name]) => unknown): Off;
  on<Name extends string>(
    action: Name,
    listener: (data: PushOf<Name>, envelope: Envelope<PushOf<Name>>) => unknown,
  ): Off;
  on<Data = never>(action: Given<Data, string>, listener: (data: Data, envelope: Envelope<Data>) => unknown): Off;
  on(name: string, listener: (...values: any[]) => unknown): Off {
    return this.#listeners.add(name, listener);
  }

  /** Calls `listener(state, error)` at every change of state; `error` says why it is `closed`. */
  onState(listener: (state: State, error?: TowpathError) => unknown): Off {
    return this.on("state", listener);
  }

  /**
   * Calls `listener(error)` for what goes wrong in the background: a listener that throws, a token that cannot be
   * fetched, a frame that makes no sense. Without a listener it goes to the console.
   */
  onError(listener: (error: unknown) => unknown): Off {
    return this.on("error", listener);
  }

  /**
   * The stream's pushes from now on, in order, each once, for a loop:
   * `for await (const { action, data, seq } of client.stream("chat:lobby"))`. Leaving the loop ends it.
   *
   * Ends with a {@link TowpathError}: `overrun` when the reader is `limit` pushes behind (`details.position` is where
   * continue from), `closed` when the client is closed, `aborted` by the signal. Earlier pushes are read first.
   */
  stream(name: string, options: StreamOptions = {}): StreamReader {
    const reader: StreamReader = new StreamReader(name, options, (gone) => {
      if (gone) this.#readers.delete(reader);
      this.#saving?.changed();
    });
    this.#readers.add(reader);
    if (this.#closedBy) reader.end(this.#closedBy);
    return reader;
  }

  /**
   * The state of a stream, and then every later change of it, in order and once:
   * `for await (const update of client.openView("chat:lobby", () => client.request("chat.history", { room: "lobby" })))`.
   * The first update is a `reset` with the state that `load` gave; `change`s follow. Where changes were missed for good
   * the state is loaded again, and another `reset` comes. Leaving the loop, or `close()`, ends it.
   *
   * `load` is called again whenever a state is needed, so calling it twice must do no harm. If it throws a
   * {@link TowpathError} that is retryable, that goes to the `error` listeners and it is called again, with backoff.
   * Any other error ends the view. It ends as well with `forbidden` when the service does not send the stream to this
   * user, `closed` when the client is closed, and `aborted` by the signal.
   *
   * @param stream Such as `chat:lobby`. Several views of one stream share it.
   * @param load Gives the state, with the position in the stream that it includes as its `seq`.
   */
  openView<State extends { seq: number }>(
    stream: string,
    load: Load<State>,
    options?: ViewOptions<State>,
  ): View<State>;
  openView<State>(
    stream: string,
    load: Load<State>,
    options: ViewOptions<State> & { position: (state: State) => number },
  ): View<State>;
  openView<State>(stream: string, load: Load<State>, options: ViewOptions<State> = {}): View<State> {
    const name = `${(this.#ids += 1)}`;
    const reload = () => this.#tell({ type: "reload_view", view: name });
    const closed = () => {
      this.#views.delete(name);
      this.#tell({ type: "close_view", view: name });
    };
    const view = new View(stream, load, options, reload, closed);
    this.#views.set(name, view);
    this.#tell({ type: "open_view", view: name, stream });
    return view;
  }

  /**
   * Resolves with what {@link connection} holds once the client is open. Rejected when it is closed instead, and with
   * `timeout` when it takes too long; the client goes on trying.
   *
   * @param timeout Milliseconds; `Infinity` to wait as long as it takes.
   */
  opened(timeout = OPEN_TIME_MS): Promise<Connection> {
    let settle = () => {};
    const open = new Promise<Connection>((resolve, reject) => {
      settle = () => {
        if (this.#connection) resolve(this.#connection);
        else if (this.#closedBy) reject(this.#closedBy);
      };
    });
    const off = this.onState(settle);
    settle();
    const late = () => {
      const how = this.#session.lastAttempt;
      return new TowpathError("timeout", `No connection within ${timeout / 1000} s${how}.`, { retryable: true });
    };
    const opened = within(timeout, () => open, late).finally(off);
    opened.catch(() => {});
    return opened;
  }

  /** Takes a stream's position from elsewhere, so that nothing after it is missed. One that is known already stays. */
  track(stream: string, seq: number): void {
    this.#tell({ type: "track", stream, seq });
  }

  /** Drops a stream's position: it is not resumed any more. */
  forget(stream: string): void {
    this.#tell({ type: "forget", stream });
  }

  /**
   * Asks for what was missed in all streams of a domain, or of all. The client does so by itself after a reconnect
   * and on a hole; call it after `track` for streams that this connection has not heard of yet.
   */
  resume(domain?: string): void {
    this.#tell({ type: "resume", domain });
  }

  /**
   * Ends the session for good; requests without an answer are rejected with `closed`.
   *
   * @returns resolved once positions are saved; never rejected
   */
  close(): Promise<void> {
    this.#tell({ type: "close" });
    return this.#saved;
  }

  // -- what the session decides

  readonly #does: { [Name in Action["do"]]: (action: Doing<Name>) => unknown } = {
    fetch_token: (action) => this.#fetchToken(action.purpose),
    connect: (action) => this.#open(action),
    disconnect: (action) => {
      this.#socket?.close(action.code, action.reason);
      this.#gone();
    },
    send: (action) => this.#socket?.send(action.text),
    timer: (action) => this.#setTimer(action),
    cancel: (action) => this.#cancelTimer(action.timer),
    resolve: (action) => this.#settled(action.msg_id)?.resolve(action.data),
    reject: (action) => this.#settled(action.msg_id)?.reject(action.error),
    accepted: (action) => this.#listeners.call(this.#waiting.get(action.msg_id)?.accepted),
    push: (action) => this.#push(action.envelope),
    incomplete: ({ do: name, ...event }) => this.#listeners.emit(name, event),
    retry: ({ do: name, ...event }) => this.#listeners.emit(name, { ...event, delayMs: this.#reconnectIn }),
    load: (action) => void this.#load(action.view),
    reset: ({ view, state, seq }) => this.#views.get(view)?.put({ type: "reset", state, seq }),
    change: (action) => this.#views.get(action.view)?.put({ type: "change", push: action.envelope }),
    view_failed: (action) => this.#views.get(action.view)?.end(action.error),
    welcome: (action) => (this.#connection = action.data as Connection),
    state: (action) => this.#changed(action),
    report: (action) => this.#listeners.report(action.error),
  };

  /** Gives the session an event and does what follows; after what is in hand, if a listener brought it up. */
  #tell(event: Event): void {
    this.#actions.push(...this.#session.handle(event, Date.now()));
    if (this.#acting) return;
    this.#acting = true;
    try {
      for (let action = this.#actions.shift(); action; action = this.#actions.shift()) {
        (this.#does[action.do] as (action: Action) => unknown)(action);
      }
    } finally {
      this.#acting = false;
    }
    this.#saving?.changed();
  }

  async #start(storage: PositionStorage | undefined): Promise<void> {
    if (storage && this.state !== "closed") await this.#restore(storage);
    this.#tell({ type: "start" });
  }

  /** Goes on from what was kept, and keeps it from now on. */
  async #restore(storage: PositionStorage): Promise<void> {
    let kept: StreamPositions = {};
    const failed = (what: "loaded" | "saved", cause: unknown) => {
      const message = `Positions could not be ${what}: ${messageOf(cause)}`;
      this.#listeners.report(new TowpathError("bad_storage", message, { retryable: true, cause }));
    };
    const load = async () => {
      const { Saving } = await savingModule();
      this.#saving = new Saving(storage, {
        positions: () => this.positions,
        readers: this.#readers,
        failed,
        closed: this.#ended.signal,
      });
      return this.#saving.load();
    };
    try {
      kept = await this.#inTime(load);
    } catch (cause) {
      failed("loaded", cause);
    }
    this.#saving?.begin(kept);
    for (const [stream, seq] of Object.entries(kept)) this.track(stream, seq);
  }

  async #fetchToken(purpose: Purpose): Promise<void> {
    try {
      const token = await this.#inTime(this.#token);
      this.#tell({ type: "token", purpose, token: checkedToken(token) });
    } catch (cause) {
      const message = `token() failed: ${messageOf(cause)}`;
      const failed = new TowpathError("no_token", message, { retryable: true, cause });
      this.#tell({ type: "token_failed", purpose, error: cause instanceof TowpathError ? cause : failed });
    }
  }

  async #load(name: string): Promise<void> {
    const view = this.#views.get(name);
    if (!view) return;
    const late = () => {
      const message = `load() gave no state of ${view.stream} within ${view.timeout / 1000} s`;
      return new TowpathError("timeout", message, { retryable: true });
    };
    try {
      const state = await within(view.timeout, () => view.load(view.life), late, view.life);
      this.#tell({ type: "loaded", view: name, seq: view.positionOf(state), state });
    } catch (cause) {
      const message = `load() of ${view.stream} failed: ${messageOf(cause)}`;
      const error = cause instanceof TowpathError ? cause : new TowpathError("load_failed", message, { cause });
      this.#tell({ type: "load_failed", view: name, error });
    }
  }

  /** The application's value, unless it takes too long; for as long as the client is not closed. */
  #inTime<Result>(work: () => Result | PromiseLike<Result>): Promise<Result> {
    const late = () => new Error(`nothing came within ${GIVEN_TIME_MS / 1000} s`);
    return within(GIVEN_TIME_MS, work, late, this.#ended.signal);
  }

  #open({ url, token }: Doing<"connect">): void {
    this.#socket = openSocket(this.#WebSocket, url, token, {
      text: (text) => this.#tell({ type: "frame", text }),
      ended: (ending) => {
        this.#gone();
        this.#tell({ type: "disconnected", ...ending });
      },
      report: (error) => this.#listeners.report(error),
    });
  }

  #gone(): void {
    this.#socket = null;
    this.#connection = null;
  }

  #setTimer({ timer, min_ms, max_ms }: Doing<"timer">): void {
    this.#cancelTimer(timer);
    const ms = Math.min(min_ms + Math.random() * (max_ms - min_ms), LONGEST_TIMER_MS);
    const goOff = () => {
      this.#timers.delete(timer);
      this.#tell({ type: "timer", timer });
    };
    this.#timers.set(timer, setTimeout(goOff, ms));
    if (timer === "reconnect") this.#reconnectIn = Math.round(ms);
  }

  #cancelTimer(name: string): void {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #settled(msgId: string): Waiting | undefined {
    const request = this.#waiting.get(msgId);
    this.#waiting.delete(msgId);
    request?.over();
    return request;
  }

  #push(envelope: Envelope): void {
    if (!envelope.action.includes(".")) return; // a push has a domain; other names are the client's own events
    this.#listeners.emit(envelope.action, envelope.data, envelope);
    this.#listeners.emit("*", envelope.data, envelope);
    if (isDurable(envelope)) for (const reader of this.#readers) reader.put(envelope);
  }

  #changed({ state, error }: Doing<"state">): void {
    if (error) {
      this.#closedBy = error; // only what is closed has one
      this.#ended.abort();
      this.#saved = this.#saving?.now() ?? this.#saved; // this is the last action: all that came has been handed out
      for (const reader of this.#readers) reader.end(error);
    }
    this.#listeners.emit("state", state, error);
  }

  // -- what the application asks

  /** Why a request cannot even be made, if so. */
  #refusal(action: string, data: unknown, msgId: string, { key, signal }: RequestOptions): TowpathError | undefined {
    const unsent = { msgId, details: { sent: false } };
    if (!isObject(data)) {
      return new TowpathError("bad_envelope", `The data of ${action} is ${JSON.stringify(data)}, no object.`, unsent);
    }
    const odd = [msgId, key].find((id) => id !== undefined && !isId(id));
    if (odd !== undefined) {
      const message = `${JSON.stringify(odd)}: msgId and key take 1 to 64 of A-Z a-z 0-9 . _ : - (see keyOf).`;
      return new TowpathError("bad_envelope", message, unsent);
    }
    if (this.#waiting.has(msgId)) {
      return new TowpathError("conflict", `A request with msgId ${msgId} is under way already.`, { msgId });
    }
    return signal?.aborted ? aborted(signal, unsent) : undefined;
  }
}

function checkedUrls(urls: readonly string[]): readonly string[] {
  try {
    if (urls.length > 0 && urls.every((url) => /^wss?:[^#]*$/.test(new URL(url).href))) return [...urls];
  } catch {} // not an array of URLs
  throw new TowpathError("bad_url", `${JSON.stringify(urls)}: pass WebSocket addresses, such as wss://example.org/ws.`);
}

let loaded: Promise<typeof import("./saving.js")> | undefined;

/** Keeps a storage up to date; loaded only with a storage, and once. */
export function savingModule(): Promise<typeof import("./saving.js")> {
  loaded ??= import("./saving.js");
  loaded.catch(() => (loaded = undefined));
  return loaded;
}

function checkedToken(token: unknown): string {
  const trimmed = typeof token === "string" ? token.trim() : ""; // a file or a program may have put a newline behind it
  if (TOKEN.test(trimmed)) return trimmed;
  // Text is likely the page of a proxy or a login: the next try may get a token.
  const retryable = trimmed !== "";
  throw new TowpathError("no_token", `token() gave ${JSON.stringify(token)?.slice(0, 40)}, no JWT.`, { retryable });
}

function randomId(): string {
  return crypto.getRandomValues(new Uint32Array(3)).join("");
}
