/**
 * Views: the state of a stream, and then every later change of it, in order and once. No I/O.
 *
 * A view begins with a load, which gives the state and the position that it includes. Pushes of the stream that arrive
 * meanwhile are held; those after the position follow the state. A load is issued after all pushes so far, so its state
 * includes them; one whose position is lower was read before them, and is discarded.
 *
 * - The application gets `reset` and then the `change` of each later `seq`, without a gap. Where that is not possible
 *   (`incomplete`, a gap, more held pushes than the limit) the state is loaded again, and a new `reset` follows: at once
 *   the first time, then with backoff.
 * - One load of a view runs at a time.
 * - A view that was closed or has failed puts nothing out, holds nothing, and has no timer. With the last view of a
 *   stream its position goes as well, unless the application follows the stream beside its views.
 */
import type { DurablePush } from "./envelope.js";
import { TowpathError } from "./errors.js";
import type { Action } from "./events.js";
import { advised, backoff } from "./reconnect.js";
import { STEADY_MS } from "./times.js";

/** Pushes that one view holds while its state is loaded. Past it they are dropped, and the state is loaded again. */
const LOADING_LIMIT = 1_000;

/** The part of the session's streams that a view needs; see resumption.ts. */
export interface Streams {
  /** The last `seq` that was put out; `undefined` if there is none yet. */
  position(stream: string): number | undefined;
  /** Whether the stream has a position, or waits for one. */
  isKnown(stream: string): boolean;
  /** Holds the pushes of a stream without a position until it has one. */
  open(stream: string): void;
  /** The position is not known after all. */
  unopened(stream: string): void;
  /** Receives what comes after `seq`. */
  follow(stream: string, seq: number): void;
  /** Drops the position. */
  forget(stream: string): void;
}

interface View {
  name: string;
  stream: string;
  phase: "loading" | "waiting" | "live";
  /** The last `seq` put out; while it is loading, the one that `held` follows without a gap, if there is one. */
  position: number | undefined;
  held: DurablePush[];
  /** The stream had no position when the load was issued: its pushes wait for the load. */
  opening: boolean;
  /** Something was missed since the load was issued, so its state is of no use. */
  outdated: boolean;
  /** The service said that the user does not receive the stream, and that was not disproved since. */
  refused: boolean;
  /** Loads since the view was last steady. */
  tries: number;
  liveAt: number;
}

export class Views {
  readonly #act: (action: Action) => void;
  readonly #streams: Streams;
  readonly #now: () => number;
  readonly #views = new Map<string, View>();
  /** Streams whose position is here for views alone. */
  readonly #owned = new Set<string>();

  /**
   * @param act Puts an action out; `cancel` of a timer that is not set is none.
   * @param now Unix milliseconds.
   */
  constructor(act: (action: Action) => void, streams: Streams, now: () => number) {
    this.#act = act;
    this.#streams = streams;
    this.#now = now;
  }

  open(name: string, stream: string): void {
    const view: View = {
      ...{ name, stream, phase: "loading", position: undefined, held: [] },
      ...{ opening: false, outdated: false, refused: false, tries: 0, liveAt: 0 },
    };
    this.#views.set(name, view);
    if (!this.#streams.isKnown(stream)) this.#owned.add(stream);
    this.#load(view);
  }

  close(name: string): void {
    const view = this.#views.get(name);
    if (!view) return;
    this.#views.delete(name);
    this.#act({ do: "cancel", timer: `view:${name}` });
    this.#unopened(view);
    if (!this.#of(view.stream).length && this.#owned.delete(view.stream)) this.#streams.forget(view.stream);
  }

  /** A load has ended: `state` includes the stream up to `seq`. */
  loaded(name: string, seq: number, state: unknown): void {
    const view = this.#views.get(name);
    if (view?.phase !== "loading") return;
    // Without one of its own nothing was put out since the stream has a position, if it has one by now.
    const base = view.position ?? this.#streams.position(view.stream) ?? 0;
    if (view.outdated || seq < base) return this.#again(view);
    const { held } = view;
    Object.assign(view, { phase: "live", position: seq, held: [], liveAt: this.#now() });
    this.#act({ do: "reset", view: name, seq, state });
    for (const push of held) this.#change(view, push);
    view.opening = false;
    this.#streams.follow(view.stream, seq); // last: it puts out what the stream itself has held
  }

  /** A load has failed; it is repeated if the error says that this may help. */
  loadFailed(name: string, error: TowpathError): void {
    const view = this.#views.get(name);
    if (view?.phase !== "loading") return;
    if (!error.retryable) return this.#fail(view, error);
    this.#act({ do: "report", error });
    this.#wait(view, advised(error.retryAfterMs));
  }

  /** The application has not taken what was put out, and wants the state again. */
  reload(name: string): void {
    const view = this.#views.get(name);
    if (view?.phase === "live") this.#again(view);
  }

  /** The wait before another load is over. */
  timeUp(name: string): void {
    const view = this.#views.get(name);
    if (view) this.#load(view);
  }

  /** The application itself follows the stream: its position stays when the views are closed. */
  wanted(stream: string): void {
    this.#owned.delete(stream);
  }

  /** A push was put out. */
  arrive(push: DurablePush): void {
    for (const view of this.#of(push.stream)) {
      if (view.phase === "loading") hold(view, push);
      else if (view.phase === "waiting") continue;
      else if (push.seq > (view.position as number) + 1) this.#again(view);
      else this.#change(view, push);
    }
  }

  /**
   * Pushes of a stream were missed for good.
   *
   * @param seq The position from which it continues, if that is known.
   * @param refused The user does not receive the stream.
   */
  incomplete(stream: string, seq: number | null, refused: boolean): void {
    for (const view of this.#of(stream)) {
      // Twice, because the user's rights may have changed between the answer and the load.
      if (refused && view.refused && view.phase === "live") {
        this.#fail(view, notReceived(stream));
        continue;
      }
      view.refused = refused;
      if (view.phase === "live") this.#again(view);
      // The load under way may have been answered before what was missed.
      else if (seq === null) view.outdated = true;
      if (view.phase === "loading") Object.assign(view, { position: seq ?? undefined, held: [] });
    }
  }

  /** Nothing of a stream was missed: the user does receive it. */
  complete(stream: string): void {
    for (const view of this.#of(stream)) view.refused = false;
  }

  /** The session is closed. Positions stay: the next session may continue from them. */
  end({ code, message, details }: TowpathError): void {
    for (const view of this.#views.keys()) {
      this.#act({ do: "cancel", timer: `view:${view}` });
      this.#act({ do: "view_failed", view, error: new TowpathError(code, message, { details }) });
    }
    this.#views.clear();
  }

  #of(stream: string): View[] {
    return [...this.#views.values()].filter((view) => view.stream === stream);
  }

  #load(view: View): void {
    // The state is read after all pushes up to the position, so it includes them.
    const position = this.#streams.position(view.stream);
    Object.assign(view, { phase: "loading", outdated: false, held: [], position });
    if (position === undefined) {
      view.opening = true;
      this.#streams.open(view.stream);
    }
    this.#act({ do: "load", view: view.name });
  }

  #again(view: View): void {
    if (view.phase === "live" && this.#now() - view.liveAt >= STEADY_MS) view.tries = 0;
    if (view.tries > 0) return this.#wait(view, 0);
    view.tries = 1;
    this.#unopened(view);
    this.#load(view);
  }

  #wait(view: View, adviceMs: number): void {
    Object.assign(view, { phase: "waiting", held: [] });
    this.#unopened(view);
    this.#act({ do: "timer", timer: `view:${view.name}`, ...backoff(view.tries, adviceMs) });
    view.tries += 1;
  }

  #change(view: View, envelope: DurablePush): void {
    if (envelope.seq <= (view.position as number)) return;
    view.position = envelope.seq;
    this.#act({ do: "change", view: view.name, envelope });
  }

  #fail(view: View, error: TowpathError): void {
    this.#act({ do: "view_failed", view: view.name, error });
    this.close(view.name);
  }

  #unopened(view: View): void {
    if (!view.opening) return;
    view.opening = false;
    this.#streams.unopened(view.stream);
  }
}

function hold(view: View, push: DurablePush): void {
  const { seq } = push;
  const last = view.held.at(-1)?.seq ?? view.position ?? seq - 1;
  if (seq <= last) return;
  // The state under way is of use only if it includes all of them.
  if (view.held.length >= LOADING_LIMIT) Object.assign(view, { position: seq, held: [] });
  else if (seq === last + 1) {
    view.position ??= last;
    view.held.push(push);
  } else Object.assign(view, { position: seq - 1, held: [push] });
}

function notReceived(stream: string): TowpathError {
  const message = `The service does not send ${stream} to this user: is it spelt so, and is the user in the room?`;
  return new TowpathError("forbidden", message, { details: { stream } });
}
