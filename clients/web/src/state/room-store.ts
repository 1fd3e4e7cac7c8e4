/** The rooms that this page knows, as one signal. */
import { signal } from "@preact/signals";

import { type Room, newRoom } from "../model/room.ts";

export class RoomStore {
  readonly all = signal<ReadonlyMap<string, Room>>(new Map());
  #me: string;

  constructor(me: string) {
    this.#me = me;
  }

  get(name: string): Room | undefined {
    return this.all.peek().get(name);
  }

  /** The room of that name, which may be new here. */
  know(name: string): Room {
    const known = this.get(name);
    if (known !== undefined) return known;
    const room = newRoom(name, this.#me);
    this.#set(room);
    return room;
  }

  /** Changes a room; one that is not known stays so. */
  update(name: string, change: (room: Room) => Room): void {
    const before = this.get(name);
    if (before === undefined) return;
    const after = change(before);
    if (after !== before) this.#set(after);
  }

  drop(name: string): void {
    const left = new Map(this.all.peek());
    if (left.delete(name)) this.all.value = left;
  }

  #set(room: Room): void {
    this.all.value = new Map(this.all.peek()).set(room.name, room);
  }
}
