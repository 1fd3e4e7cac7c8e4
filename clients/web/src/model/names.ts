/** Names of rooms and people. A two-person room is called `dm:<a>:<b>`, the two sorted, for both of them. */

import { shown } from "@towpath/client";

const DIRECT = "dm:";

export function directRoom(one: string, other: string): string {
  return DIRECT + [one, other].sort(byCodePoint).map(escape).join(":");
}

export function isDirect(room: string): boolean {
  return room.startsWith(DIRECT);
}

/** The other person of a two-person room. */
export function partner(room: string, me: string): string {
  const people = room.slice(DIRECT.length).split(":").map(unescape);
  return people.find((person) => person !== me) ?? me;
}

/** The stream of a room. */
export function streamOf(room: string): string {
  return `chat:${room}`;
}

/** One or two letters to stand for a name. */
export function initials(name: string): string {
  const letters = name
    .split(/[\s._-]+/)
    .filter(Boolean)
    .map((word) => [...word][0]);
  return letters.slice(0, 2).join("").toUpperCase();
}

/** A number from 0 to `hues` - 1 that is always the same for a name. */
export function hue(name: string, hues: number): number {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)!) % 9973;
  return sum % hues;
}

/** The services sort by code point; JavaScript by itself sorts by UTF-16 unit. */
function byCodePoint(one: string, other: string): number {
  const [left, right] = [[...one], [...other]];
  for (let at = 0; at < Math.min(left.length, right.length); at++) {
    const difference = left[at]!.codePointAt(0)! - right[at]!.codePointAt(0)!;
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}

const escape = (user: string) => user.replaceAll("%", "%25").replaceAll(":", "%3A");
const unescape = (user: string) => user.replaceAll("%3A", ":").replaceAll("%25", "%");

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/**
 * A name inside of a sentence: what is hidden in it is shown, and where it is written from right to left, it does not
 * reorder the words beside it (https://www.w3.org/International/questions/qa-bidi-unicode-controls).
 */
export function inText(name: string): string {
  const visible = shown(name);
  return RIGHT_TO_LEFT.test(visible) ? `\u2068${visible}\u2069` : visible;
}
