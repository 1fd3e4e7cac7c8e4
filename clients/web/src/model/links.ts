/**
 * The addresses in a text that may be opened. No I/O.
 *
 * Guarantees: only `http:` and `https:`, nothing else becomes an address. An address is shown as it is written: only
 * visible ASCII, so that no letter in it looks like another one and none reorders it; no user before an `@`, which
 * would look like the host. The parts put together are the text, unchanged.
 */

export type Part = string | { readonly href: string };

const ADDRESS = /\bhttps?:\/\/[!-~]+/gi;
/** Ends of a sentence, and brackets or quotes around an address. */
const AROUND = /[.,:;!?'"*_~\\<>\])}]+$/;

export function partsOf(text: string): readonly Part[] {
  const parts: Part[] = [];
  let end = 0;
  for (const match of text.matchAll(ADDRESS)) {
    const href = trimmed(match[0].split(/[<>"`]/, 1)[0]!);
    if (!isPlain(href)) continue;
    if (match.index > end) parts.push(text.slice(end, match.index));
    parts.push({ href });
    end = match.index + href.length;
  }
  if (end < text.length || parts.length === 0) parts.push(text.slice(end));
  return parts;
}

/** Without what belongs to the sentence. A closing bracket stays where the address opens it. */
function trimmed(address: string): string {
  const bare = address.replace(AROUND, "");
  const closes = address[bare.length] === ")" && count(bare, "(") > count(bare, ")");
  return closes ? `${bare})` : bare;
}

function isPlain(address: string): boolean {
  if (!URL.canParse(address)) return false;
  const { protocol, username, password, hostname } = new URL(address);
  return /^https?:$/.test(protocol) && hostname !== "" && username === "" && password === "";
}

function count(text: string, letter: string): number {
  return text.split(letter).length - 1;
}
