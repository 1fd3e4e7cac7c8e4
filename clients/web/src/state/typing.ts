/** Typing users, by room. */
import { signal } from "@preact/signals";

import { type Typing, nextEnd, remaining, started, stopped } from "../model/typing.ts";

export class TypingNow {
  readonly rooms = signal<ReadonlyMap<string, Typing>>(new Map());
  #ending: ReturnType<typeof setTimeout> | undefined;

  started(room: string, user: string): void {
    this.#change(room, (typing) => started(typing, user, Date.now()));
  }

  stopped(room: string, user: string): void {
    this.#change(room, (typing) => stopped(typing, user));
  }

  #change(room: string, change: (typing: Typing) => Typing): void {
    const before = this.rooms.peek().get(room) ?? new Map();
    const after = change(before);
    if (after !== before) this.#set(new Map(this.rooms.peek()).set(room, after));
  }

  #set(rooms: ReadonlyMap<string, Typing>): void {
    const [now, left] = [Date.now(), [...rooms].filter(([, typing]) => typing.size > 0)];
    this.rooms.value = new Map(left);
    clearTimeout(this.#ending);
    if (left.length === 0) return;
    const next = Math.min(...left.map(([, typing]) => nextEnd(typing, now) ?? Infinity));
    this.#ending = setTimeout(() => this.#end(), next + 1);
  }

  #end(): void {
    const now = Date.now();
    this.#set(new Map([...this.rooms.peek()].map(([room, typing]) => [room, remaining(typing, now)])));
  }
}
