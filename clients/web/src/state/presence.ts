/** The members of rooms, and which of them are online. Failures of the service are not shown. */
import { batch, signal } from "@preact/signals";
import type { MemberList, MemberState } from "@towpath/client";

import { listed } from "../model/room.ts";
import type { RoomStore } from "./room-store.ts";

/** A crowd that joins is asked after once. */
const CROWD_MS = 500;

export class Presence {
  /** By name, as far as the service reported. */
  readonly online = signal<ReadonlyMap<string, boolean>>(new Map());
  #store: RoomStore;
  #ask: (room: string) => Promise<MemberList>;
  #due: ReturnType<typeof setTimeout> | undefined;

  constructor(store: RoomStore, ask: (room: string) => Promise<MemberList>) {
    this.#store = store;
    this.#ask = ask;
  }

  take({ user, online }: MemberState): void {
    this.online.value = new Map(this.online.peek()).set(user, online);
  }

  /** Asks who is in a room. */
  async load(room: string): Promise<void> {
    try {
      const { members, count } = await this.#ask(room);
      batch(() => {
        const data = members.map(({ user, online }) => [user, online] as const);
        this.online.value = new Map([...this.online.peek(), ...data]);
        const names = members.map(({ user }) => user);
        this.#store.update(room, (known) => listed(known, names, count));
      });
    } catch {
      // Known members stay, even if there are none.
    }
  }

  /** Asks a little later, if the room is still wanted then. */
  soon(room: string, isWanted: () => boolean): void {
    clearTimeout(this.#due);
    this.#due = setTimeout(() => {
      if (isWanted()) void this.load(room);
    }, CROWD_MS);
  }
}
