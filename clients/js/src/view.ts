/**
 * A view as an async iterator: the state of a stream, and then every later change of it.
 *
 * Updates that were not taken yet are kept, up to a limit. When that is exceeded they are dropped, and the state is
 * loaded again once the reader asks for the next update. A new state replaces what is kept: it includes all of it.
 */
import type { DurablePush } from "./envelope.js";
import { TowpathError, aborted } from "./errors.js";
import { onAbort } from "./listeners.js";
import { isPosition } from "./positions.js";
import { LOAD_TIME_MS } from "./times.js";

const KEPT_LIMIT = 1_000;

export interface ViewOptions<State> {
  /** The position that a state includes; its `seq` by default. */
  position?: ((state: State) => number) | undefined;
  /** Ends the view with `aborted`, at once. */
  signal?: AbortSignal | undefined;
  /** How many updates are kept for a reader that is slow; default 1,000. */
  limit?: number | undefined;
  /** Milliseconds that one load may take; default 60,000. */
  timeout?: number | undefined;
}

/** The state of the stream up to `seq`. It replaces all that came before. */
export interface Reset<State> {
  type: "reset";
  state: State;
  seq: number;
}

/** The next push of the stream. */
export interface Change {
  type: "change";
  push: DurablePush;
}

export type Update<State> = Reset<State> | Change;

/** Loads a state; the signal aborts when the view is closed. It is called for each state that is needed. */
export type Load<State> = (signal: AbortSignal) => State | PromiseLike<State>;

type Result<State> = IteratorResult<Update<State>, undefined>;

interface Waiting<State> {
  resolve: (result: Result<State>) => void;
  reject: (error: TowpathError) => void;
}

export class View<State> implements AsyncIterableIterator<Update<State>> {
  readonly stream: string;
  /** @internal */
  readonly load: Load<State>;
  /** @internal */
  readonly timeout: number;
  readonly #position: (state: State) => number;
  readonly #limit: number;
  readonly #reload: () => void;
  readonly #closed: () => void;
  readonly #life = new AbortController();
  #kept: Update<State>[] = [];
  #waiting: Waiting<State>[] = [];
  /** Updates were dropped for want of room. */
  #behind = false;
  #error: TowpathError | undefined;
  readonly #unlisten: () => void;

  /**
   * @param reload Called when the reader is back and needs a state.
   * @param closed Called when nothing more is wanted.
   */
  constructor(
    stream: string,
    load: Load<State>,
    { position = seqOf, signal, limit = KEPT_LIMIT, timeout = LOAD_TIME_MS }: ViewOptions<State>,
    reload: () => void,
    closed: () => void,
  ) {
    this.stream = stream;
    this.load = load;
    this.timeout = timeout;
    this.#position = position;
    this.#limit = limit;
    this.#reload = reload;
    this.#closed = closed;
    const abort = () => {
      this.#kept = [];
      this.end(aborted(signal as AbortSignal));
    };
    this.#unlisten = onAbort(signal, abort);
    if (signal?.aborted) queueMicrotask(abort);
  }

  /** Aborted once the view has ended. @internal */
  get life(): AbortSignal {
    return this.#life.signal;
  }

  /** The position of a loaded state. @internal */
  positionOf(state: State): number {
    const seq = this.#position(state);
    if (isPosition(seq)) return seq;
    const message = `load() gave no position of ${this.stream}: its state needs a seq, or openView the option position.`;
    throw new TowpathError("load_failed", message);
  }

  /** Something for the reader. @internal */
  put(update: Update<State>): void {
    if (this.life.aborted || this.#behind) return;
    const waiting = this.#waiting.shift();
    if (waiting) return waiting.resolve({ done: false, value: update });
    if (update.type === "reset") this.#kept = [];
    if (this.#kept.length < this.#limit) return void this.#kept.push(update);
    this.#kept = [];
    this.#behind = true;
  }

  /** Nothing more will come; `error` is what the reader gets in its place. @internal */
  end(error?: TowpathError): void {
    if (this.life.aborted) return;
    this.#life.abort();
    this.#error = error;
    this.#behind = false;
    this.#unlisten();
    this.#closed();
    for (const { resolve, reject } of this.#waiting.splice(0)) this.next().then(resolve, reject);
  }

  async next(): Promise<Result<State>> {
    const value = this.#kept.shift();
    if (value) return { done: false, value };
    if (!this.life.aborted) {
      if (this.#behind) {
        this.#behind = false;
        this.#reload();
      }
      return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    }
    const error = this.#error;
    this.#error = undefined;
    if (error) throw error;
    return { done: true, value: undefined };
  }

  /** Ends the view, as leaving the loop does: nothing of it is kept, and no timer. */
  close(): void {
    this.#kept = [];
    this.end();
    this.#error = undefined;
  }

  async return(): Promise<Result<State>> {
    this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

function seqOf(state: unknown): number {
  return (state as { seq: number } | null | undefined)?.seq as number;
}
