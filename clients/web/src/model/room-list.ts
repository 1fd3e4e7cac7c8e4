/** Rooms as lists: in order, counted, searched, stepped through. No I/O. */
import type { Room } from "./room.ts";

export interface RoomLists {
  readonly rooms: readonly Room[];
  readonly directs: readonly Room[];
}

/**
 * Rooms and people apart: first those with something new, then by title as `compare` has it. An open room stays where
 * it was until the person turns to another one, so that it does not move while it is read.
 */
export function listed(rooms: Iterable<Room>, compare: (one: string, other: string) => number): RoomLists {
  const sorted = [...rooms]
    .filter((room) => room.history !== "stranger")
    .sort((one, other) => Number(hasNews(other)) - Number(hasNews(one)) || compare(one.title, other.title));
  return {
    rooms: sorted.filter((room) => room.partner === null),
    directs: sorted.filter((room) => room.partner !== null),
  };
}

function hasNews(room: Room): boolean {
  return room.unread > 0 || room.newSince !== null;
}

export function totalUnread(rooms: Iterable<Room>): number {
  let sum = 0;
  for (const room of rooms) sum += room.unread;
  return sum;
}

/** Those whose title or name has all of the words typed; unread ones first, then those that begin with it. */
export function matching(rooms: readonly Room[], typed: string): readonly Room[] {
  const words = typed.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const rank = (room: Room) => {
    const begins = words.length > 0 && room.title.toLocaleLowerCase().startsWith(words[0]!);
    return (room.unread > 0 ? 0 : 2) + (begins ? 0 : 1);
  };
  return rooms
    .filter((room) => {
      const text = `${room.title} ${room.name}`.toLocaleLowerCase();
      return words.every((word) => text.includes(word));
    })
    .toSorted((one, other) => rank(one) - rank(other));
}

/** The one after (or, with `step` -1, before) the open one, around the end; null when there is none. */
export function neighbour(rooms: readonly Room[], open: string | null, step: 1 | -1): Room | null {
  if (rooms.length === 0) return null;
  const at = rooms.findIndex((room) => room.name === open);
  const next = at < 0 ? (step > 0 ? 0 : rooms.length - 1) : (at + step + rooms.length) % rooms.length;
  return rooms[next] ?? null;
}
