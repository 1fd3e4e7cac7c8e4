/** Names as people see them: the counterpart of `towpath.protocol.names`, which says why, under the same vectors. */

const EMOJI =
  "\\u00a9\\u00ae\\u2122\\u2139\\u203c\\u2049\\u2190-\\u2bff\\u3030\\u303d\\u3297\\u3299\\u{1f000}-\\u{1faff}";
const JOINING = "\\u0600-\\u0dff\\u1000-\\u109f\\u1780-\\u18af\\ufb50-\\ufdff\\ufe70-\\ufefc";
const ALLOWED = [
  `(?<=[${EMOJI}])[\\ufe0e\\ufe0f]`,
  "(?<=[0-9#*])\\ufe0f(?=\\u20e3)",
  `(?<=[${EMOJI}\\ufe0f])\\u200d(?=[${EMOJI}])`,
  `(?<=[${JOINING}])[\\u200c\\u200d](?=[${JOINING}])`,
].join("|");
const HIDDEN =
  "\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f" +
  "\\u2028-\\u202e\\u2060-\\u206f\\u2800\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufffb\\ufffe\\uffff" +
  "\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}";
const NOT_VISIBLE = new RegExp(`(?!${ALLOWED})[${HIDDEN}]`, "gu");

/**
 * A name of a user or a room for people: each character that they cannot see as its number, `ad⟨U+200B⟩min`. User ids
 * come from the issuer of tokens, so any character is possible.
 *
 * Put it into an element that isolates its direction (`<bdi>`) as well.
 */
export function shown(name: string): string {
  return name.replace(NOT_VISIBLE, (character) => {
    const number = character.codePointAt(0)?.toString(16).toUpperCase() ?? "";
    return `⟨U+${number.padStart(4, "0")}⟩`;
  });
}
