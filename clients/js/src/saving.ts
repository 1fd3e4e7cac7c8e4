/**
 * Keeps a storage up to date with the client's positions.
 *
 * - Nothing is saved before `begin`, so that a start cut short erases nothing.
 * - Saves come one after the other, at most every 200 ms, and once more when the client is closed or the page is left.
 * - What cannot be saved is reported, and the next change tries again.
 *
 * Loaded by clients that have a storage. It imports nothing but types, so that bundlers leave the rest in one piece.
 */
import type { PositionStorage, StreamPositions } from "./storage.js";
import type { StreamReader } from "./stream-reader.js";

const SAVE_EVERY_MS = 200;

/** The used part of a client. */
export interface Saved {
  positions: () => StreamPositions;
  readers: Iterable<StreamReader>;
  failed: (what: "saved", cause: unknown) => void;
  closed: AbortSignal;
}

export class Saving {
  readonly #storage: PositionStorage;
  readonly #client: Saved;
  /** The contents of the storage, as text; nothing before `begin`. */
  #kept: string | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #last = Promise.resolve();

  constructor(storage: PositionStorage, client: Saved) {
    this.#storage = storage;
    this.#client = client;
    globalThis.addEventListener?.("pagehide", () => void this.now(), { signal: client.closed });
  }

  /** The stored positions. Rejected if they cannot be loaded, and with a TypeError if they are invalid. */
  async load(): Promise<StreamPositions> {
    const kept: unknown = (await this.#storage.load()) ?? {};
    if (arePositions(kept)) return { ...kept };
    throw new TypeError(`these are not positions: ${JSON.stringify(kept)}`);
  }

  /** From now on changes are saved; the storage holds `kept`. */
  begin(kept: StreamPositions): void {
    this.#kept = JSON.stringify(kept);
  }

  /** Positions may have changed. */
  changed(): void {
    if (!this.#client.closed.aborted) this.#timer ??= setTimeout(() => void this.now(), SAVE_EVERY_MS);
  }

  /** Saves what has changed, after what is being saved; resolved when it is done, never rejected. */
  now(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return (this.#last = this.#last.then(() => this.#save()));
  }

  async #save(): Promise<void> {
    const positions = this.#finished();
    const text = JSON.stringify(positions);
    if (this.#kept === undefined || this.#kept === text) return;
    try {
      await this.#storage.save(positions);
      this.#kept = text;
    } catch (cause) {
      this.#client.failed("saved", cause);
    }
  }

  /** Positions that every reader has finished: a push that a reader still handles is not counted. */
  #finished(): StreamPositions {
    const positions = this.#client.positions();
    for (const { unfinished } of this.#client.readers) {
      if (unfinished === undefined) continue;
      const { stream, seq } = unfinished;
      const position = positions[stream];
      if (position !== undefined) positions[stream] = Math.min(position, seq - 1);
    }
    return positions;
  }
}

function arePositions(kept: unknown): kept is StreamPositions {
  const seqs = typeof kept === "object" && !Array.isArray(kept) ? Object.values(kept as object) : [NaN];
  return seqs.every((seq) => Number.isSafeInteger(seq) && seq >= 0);
}
