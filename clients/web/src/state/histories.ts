/** Loads what was said: the end of a room first, and then, page by page, what is earlier. */
import { type History, TowpathError } from "@towpath/client";

import { isDirect } from "../model/names.ts";
import { emptied, firstMessage, paged } from "../model/room.ts";
import type { RoomStore } from "./room-store.ts";

type Ask = (room: string, range: { before_seq?: number }) => Promise<History>;

export class Histories {
  #store: RoomStore;
  #ask: Ask;
  #loading = new Map<string, Promise<void>>();

  constructor(store: RoomStore, ask: Ask) {
    this.#store = store;
    this.#ask = ask;
  }

  /**
   * Loads the end of a room; asked while it is under way, it is the same. Of a room that one is not in it becomes
   * known that one is not.
   *
   * @throws {TowpathError} when it cannot be loaded now
   */
  load(name: string): Promise<void> {
    const underWay = this.#loading.get(name);
    if (underWay) return underWay;
    const loading = this.#end(name).finally(() => this.#loading.delete(name));
    this.#loading.set(name, loading);
    return loading;
  }

  /**
   * Says whether earlier messages came.
   *
   * @throws {TowpathError} when they cannot be loaded now
   */
  async earlier(name: string): Promise<boolean> {
    const room = this.#store.get(name);
    const first = room && firstMessage(room);
    if (!first || !room.hasEarlier) return false;
    const page = await this.#ask(name, { before_seq: first.seq });
    this.#store.update(name, (known) => paged(known, page));
    return true;
  }

  async #end(name: string): Promise<void> {
    try {
      const page = await this.#ask(name, {});
      this.#store.know(name);
      this.#store.update(name, (room) => paged(room, page));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      this.#store.know(name);
      // A conversation without messages yet; or a room of others.
      const history = isDirect(name) ? "loaded" : "stranger";
      this.#store.update(name, (room) => ({ ...emptied(room), history }));
    }
  }
}

function isRefusal(error: unknown): boolean {
  return error instanceof TowpathError && ["not_found", "forbidden"].includes(error.code);
}
