/**
 * The messages of the rooms that were opened: the end of the history, every later entry of the room's stream, and,
 * page by page, the earlier ones. Those opened last are kept; another one is loaded again when it is opened.
 */
import { batch } from "@preact/signals";
import type { Client, DurablePush, History, TowpathError } from "@towpath/client";

import { isDirect, streamOf } from "../model/names.ts";
import { continued, emptied, extended, firstMessage, loaded } from "../model/room.ts";
import { Following } from "./following.ts";
import type { RoomStore } from "./room-store.ts";

/** Each one costs a load when too much was missed. */
const KEPT = 20;

type Ask = (room: string, range: { before_seq?: number }, signal?: AbortSignal) => Promise<History>;

interface Listener {
  /** The end of the history of a room is there; `again` where something was missed. */
  loaded: (room: string, page: History, again: boolean) => void;
  /** An entry followed. */
  followed: (room: string, push: DurablePush) => void;
  /** It cannot be loaded for now, or not at all. */
  failed: (error: TowpathError) => void;
}

export class Conversations {
  #client: Client;
  #store: RoomStore;
  #ask: Ask;
  #listener: Listener;
  /** By room; those opened last are at the end. */
  #followings = new Map<string, Following<History>>();

  constructor(client: Client, store: RoomStore, ask: Ask, listener: Listener) {
    this.#client = client;
    this.#store = store;
    this.#ask = ask;
    this.#listener = listener;
  }

  /** Whether the entries of the room are followed. */
  has(room: string): boolean {
    return this.#followings.get(room)?.isOpen ?? false;
  }

  /** Follows a room, if it is not followed yet. Of a room that one is not in it becomes known that one is not. */
  open(room: string): void {
    const following = this.#followings.get(room) ?? this.#following(room);
    this.#followings.delete(room);
    this.#followings.set(room, following);
    void following.open();
    const [oldest] = this.#followings.keys();
    if (this.#followings.size <= KEPT || oldest === undefined) return;
    this.close(oldest);
    this.#store.update(oldest, emptied);
  }

  close(room: string): void {
    this.#followings.get(room)?.close();
    this.#followings.delete(room);
  }

  /**
   * Says whether earlier messages came.
   *
   * @throws {TowpathError} when they cannot be loaded now
   */
  async earlier(name: string): Promise<boolean> {
    const first = this.#first(name);
    if (first === undefined || !this.#store.get(name)?.hasEarlier) return false;
    const page = await this.#ask(name, { before_seq: first });
    if (this.#first(name) !== first) return true; // it was loaded again meanwhile, and may not reach down to this page
    this.#store.update(name, (room) => extended(room, page));
    return true;
  }

  #first(name: string): number | undefined {
    const room = this.#store.get(name);
    return room && firstMessage(room)?.seq;
  }

  #following(name: string): Following<History> {
    return new Following(this.#client, streamOf(name), (signal) => this.#ask(name, {}, signal), {
      reset: (page, again) =>
        batch(() => {
          this.#store.know(name);
          this.#store.update(name, (room) => loaded(room, page));
          this.#listener.loaded(name, page, again);
        }),
      change: (push) =>
        batch(() => {
          this.#store.update(name, (room) => continued(room, push));
          this.#listener.followed(name, push);
        }),
      failed: (error) => this.#listener.failed(error),
      refused: (error) => this.#refused(name, error),
    });
  }

  #refused(name: string, error: TowpathError): void {
    if (!["not_found", "forbidden"].includes(error.code)) return this.#listener.failed(error);
    this.#store.know(name);
    this.#store.update(name, (room) =>
      // A conversation without messages yet; or a room of others.
      isDirect(name) ? { ...room, history: "loaded" } : { ...emptied(room), history: "stranger" },
    );
  }
}
