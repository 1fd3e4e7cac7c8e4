/**
 * A stream's pushes as an async iterator: in order, each once, from the moment it is made.
 *
 * Unread pushes are kept, up to a limit. When that is exceeded, or the client is closed for good,
 * the reader still gets what is kept, and then the error: nothing is left out silently.
 */
import type { DurablePush } from "./envelope.js";
import { TowpathError, aborted } from "./errors.js";
import { onAbort } from "./listeners.js";

export interface StreamOptions {
  /** Ends the reading with `aborted`, at once. */
  signal?: AbortSignal | undefined;
  /** How many pushes are kept for a reader that is slow; default 1,000. */
  limit?: number | undefined;
}

type Result = IteratorResult<DurablePush, undefined>;

interface Waiting {
  resolve: (result: Result) => void;
  reject: (error: TowpathError) => void;
}

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined };

export class StreamReader implements AsyncIterableIterator<DurablePush> {
  readonly #stream: string;
  readonly #limit: number;
  readonly #moved: (gone: boolean) => void;
  #kept: DurablePush[] = [];
  #inHand: DurablePush | undefined;
  #waiting: Waiting[] = [];
  /** Nothing more is taken in; what is kept is still given out, and then the error. */
  #over = false;
  #error: TowpathError | undefined;
  readonly #unlisten: () => void;

  /** @param moved Called when the reader is done with a push, and with `true` when it is done with all. */
  constructor(stream: string, { signal, limit = 1_000 }: StreamOptions, moved: (gone: boolean) => void) {
    this.#stream = stream;
    this.#limit = limit;
    this.#moved = moved;
    const abort = () => {
      this.#kept = [];
      this.end(aborted(signal as AbortSignal));
    };
    this.#unlisten = onAbort(signal, abort);
    if (signal?.aborted) abort();
  }

  /** The first push that the reader is not done with: asking for the next one says so. */
  get unfinished(): DurablePush | undefined {
    return this.#inHand ?? this.#kept[0];
  }

  /** A push came, of this stream or another. */
  put(push: DurablePush): void {
    if (this.#over || push.stream !== this.#stream) return;
    const waiting = this.#waiting.shift();
    if (waiting) waiting.resolve(this.#give(push));
    else if (this.#kept.length < this.#limit) this.#kept.push(push);
    else {
      const position = this.#kept.at(-1)?.seq ?? push.seq - 1;
      const message = `${this.#limit} pushes of ${this.#stream} were not read. Go on from ${position}.`;
      this.end(new TowpathError("overrun", message, { details: { stream: this.#stream, position } }));
    }
  }

  /** Nothing more will come; `error` is what the reader gets in its place. */
  end(error?: TowpathError): void {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    this.#unlisten();
    for (const { resolve, reject } of this.#waiting.splice(0)) this.#next().then(resolve, reject);
  }

  next(): Promise<Result> {
    const done = this.#inHand !== undefined;
    this.#inHand = undefined;
    const next = this.#next();
    if (done) this.#moved(false);
    return next;
  }

  /** The reader leaves the loop: what is kept is dropped. */
  async return(): Promise<Result> {
    this.#kept = [];
    this.#inHand = undefined;
    this.#error = undefined;
    this.end();
    this.#moved(true);
    return DONE;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #give(push: DurablePush): Result {
    this.#inHand = push;
    return { done: false, value: push };
  }

  async #next(): Promise<Result> {
    const push = this.#kept.shift();
    if (push) return this.#give(push);
    if (!this.#over) return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    const error = this.#error;
    this.#error = undefined;
    this.#moved(true);
    if (error) throw error;
    return DONE;
  }
}
