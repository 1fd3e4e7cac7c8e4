/**
 * Names of rooms and people. A two-person room is called `dm:<a>:<b>`, the two sorted, whoever asks.
 */
const DIRECT = "dm:";

/**
 * @param {string} one
 * @param {string} other
 */
export function directRoom(one, other) {
  return DIRECT + [one, other].sort(byCodePoint).map(escape).join(":");
}

/** @param {string} room */
export function isDirect(room) {
  return room.startsWith(DIRECT);
}

/**
 * The other person of a two-person room.
 *
 * @param {string} room
 * @param {string} me
 */
export function partner(room, me) {
  const people = room.slice(DIRECT.length).split(":").map(unescape);
  return people.find((person) => person !== me) ?? me;
}

/**
 * One or two letters to stand for a name.
 *
 * @param {string} name
 */
export function initials(name) {
  const letters = name
    .split(/[\s._-]+/)
    .filter(Boolean)
    .map((word) => [...word][0]);
  return letters.slice(0, 2).join("").toUpperCase();
}

/**
 * A number from 0 to `hues` - 1 that is always the same for a name.
 *
 * @param {string} name
 * @param {number} hues
 */
export function hue(name, hues) {
  let sum = 0;
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return sum % hues;
}

/** The services sort by code point; JavaScript by itself sorts by UTF-16 unit. */
function byCodePoint(one, other) {
  const [left, right] = [[...one], [...other]];
  for (let at = 0; at < Math.min(left.length, right.length); at++) {
    const difference = left[at].codePointAt(0) - right[at].codePointAt(0);
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}

const escape = (user) => user.replaceAll("%", "%25").replaceAll(":", "%3A");
const unescape = (user) => user.replaceAll("%3A", ":").replaceAll("%25", "%");
