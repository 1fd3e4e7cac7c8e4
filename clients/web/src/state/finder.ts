/** Public rooms that the person can join, by the beginning of their names. Without the action there are none. */
import { batch, signal } from "@preact/signals";
import type { FindRooms, FoundRoom, FoundRooms } from "@towpath/client";

const PAGE = 20;
/** Typing faster than this asks once. */
const AFTER_MS = 150;

export class Finder {
  readonly rooms = signal<readonly FoundRoom[]>([]);
  readonly hasMore = signal(false);
  /** Whether the service has answered what is asked for now. */
  readonly answered = signal(false);
  #ask: (data: FindRooms) => Promise<FoundRooms>;
  #prefix: string | null = null;
  #cursor: string | null = null;
  #due: ReturnType<typeof setTimeout> | undefined;

  constructor(ask: (data: FindRooms) => Promise<FoundRooms>) {
    this.#ask = ask;
  }

  /** Looks for rooms whose names begin with `prefix`; the found ones are in {@link rooms} soon. */
  look(prefix: string): void {
    if (prefix === this.#prefix) return;
    const isFirst = this.#prefix === null;
    this.#prefix = prefix;
    this.#cursor = null; // it goes on with what was asked for before
    batch(() => {
      this.answered.value = false;
      this.hasMore.value = false;
    });
    clearTimeout(this.#due);
    if (isFirst) void this.#load(prefix, null);
    else this.#due = setTimeout(() => void this.#load(prefix, null), AFTER_MS);
  }

  /** Loads the next page. */
  async more(): Promise<void> {
    if (this.#prefix !== null && this.#cursor !== null) await this.#load(this.#prefix, this.#cursor);
  }

  /** Nothing is looked for any more; the next {@link look} asks again. */
  stop(): void {
    clearTimeout(this.#due);
    this.#prefix = null;
  }

  async #load(prefix: string, cursor: string | null): Promise<void> {
    let page: FoundRooms;
    try {
      page = await this.#ask({ limit: PAGE, ...(prefix && { prefix }), ...(cursor !== null && { cursor }) });
    } catch {
      // One's own rooms are found all the same, and any room can be joined by its name.
      page = { rooms: [] };
    }
    if (prefix !== this.#prefix || (cursor !== null && cursor !== this.#cursor)) return; // it asks for others by now
    batch(() => {
      this.#cursor = page.cursor ?? null;
      this.rooms.value = cursor === null ? page.rooms : [...this.rooms.peek(), ...page.rooms];
      this.hasMore.value = this.#cursor !== null;
      this.answered.value = true;
    });
  }
}
