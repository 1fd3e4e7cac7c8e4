/**
 * One room as this page knows it: what was said, what is about to be said, who types. No I/O.
 *
 * Entries come from pushes, answers and pages of history, in any order and more than once; they stand by `seq`, each
 * once.
 *
 * @typedef {{seq: number, user: string, text?: string, note?: "joined" | "left", sent_at?: number}} Entry
 * @typedef {{ref: string, text: string, problem: string | null}} Draft a message on its way
 */
import { isDirect, partner } from "./names.js";

export class Room {
  /** @type {Map<number, Entry>} */
  #entries = new Map();
  /** @type {Map<string, Draft>} */
  #drafts = new Map();
  /** @type {Set<string> | null} null as long as nobody said */
  members = null;
  /** @type {Set<string>} */
  typing = new Set();
  unread = 0;
  loaded = false;
  hasEarlier = false;

  /**
   * @param {string} name
   * @param {string} me
   * @param {string} [title]
   */
  constructor(name, me, title) {
    this.name = name;
    this.me = me;
    this.direct = isDirect(name);
    this.title = this.direct ? partner(name, me) : title || name;
    this.stream = `chat:${name}`;
  }

  /** @returns {Entry[]} in order */
  get entries() {
    return [...this.#entries.values()].sort((one, other) => one.seq - other.seq);
  }

  /** @returns {Draft[]} */
  get drafts() {
    return [...this.#drafts.values()];
  }

  /** The first message that is loaded, to load earlier ones from. */
  get firstSeq() {
    return Math.min(...[...this.#entries.values()].filter((entry) => !entry.note).map((entry) => entry.seq));
  }

  /**
   * Takes a message; says whether it is new here.
   *
   * @param {{seq: number, user: string, text: string, sent_at: number, client_ref?: string}} message
   */
  add({ seq, user, text, sent_at, client_ref }) {
    this.typing.delete(user);
    if (user === this.me) this.#settle(client_ref, text);
    if (this.#entries.has(seq)) return false;
    this.#entries.set(seq, { seq, user, text, sent_at });
    return true;
  }

  /**
   * Takes the news that somebody joined or left.
   *
   * @param {"joined" | "left"} note
   * @param {{seq: number, user: string}} push
   */
  addNote(note, { seq, user }) {
    if (note === "joined") this.members?.add(user);
    else this.members?.delete(user);
    this.typing.delete(user);
    if (!this.#entries.has(seq)) this.#entries.set(seq, { seq, user, note });
  }

  /**
   * Takes a page of history.
   *
   * @param {{messages: any[], has_more: boolean}} page
   */
  addPage({ messages, has_more }) {
    for (const message of messages) this.add(message);
    this.loaded = true;
    this.hasEarlier = has_more;
  }

  /** Forgets what was said, to load it anew. */
  reset() {
    this.#entries.clear();
    this.loaded = false;
    this.hasEarlier = false;
  }

  /**
   * @param {string} ref
   * @param {string} text
   */
  draft(ref, text) {
    this.#drafts.set(ref, { ref, text, problem: null });
  }

  /**
   * @param {string} ref
   * @param {string} problem
   */
  failed(ref, problem) {
    const draft = this.#drafts.get(ref);
    if (draft) this.#drafts.set(ref, { ...draft, problem });
  }

  /** @param {string} ref */
  discard(ref) {
    this.#drafts.delete(ref);
  }

  /** A message of one's own has arrived: by its reference, or where there is none by what it says. */
  #settle(ref, text) {
    if (ref !== undefined) this.#drafts.delete(ref);
    else if (this.direct) this.#drafts.delete(this.drafts.find((draft) => draft.text === text)?.ref);
  }
}
