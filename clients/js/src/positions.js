/**
 * Positions in streams: nothing missed, nothing twice. No I/O.
 *
 * A durable push carries `stream` and `seq`, and `seq` grows by exactly 1. A push the client has is dropped, the
 * next one is passed on, and one that comes after a hole is held until a resume fills the hole. So pushes of one
 * stream leave here in order, each once.
 *
 * @typedef {"next" | "duplicate" | "hole"} Verdict
 */

/** Past this many held pushes of one stream the rest is left to the next resume, which replays it. */
const HELD_LIMIT = 1_000;

/** @template Push */
export class Positions {
  /** @type {Map<string, number>} the last `seq` passed on */
  #last;
  /** @type {Map<string, Map<number, Push>>} what came after a hole */
  #held = new Map();

  /** @param {Record<string, number>} [positions] */
  constructor(positions = {}) {
    this.#last = new Map(Object.entries(positions));
  }

  /**
   * Judges a push, and says which pushes may go to the application now. The first push of an unknown stream
   * counts as the next one.
   *
   * @param {string} stream
   * @param {number} seq
   * @param {Push} push
   * @returns {{verdict: Verdict, ready: Push[]}}
   */
  arrive(stream, seq, push) {
    const last = this.#last.get(stream);
    if (last === undefined || seq === last + 1) {
      this.#last.set(stream, seq);
      return { verdict: "next", ready: [push, ...this.#release(stream, seq)] };
    }
    if (seq <= last || this.#held.get(stream)?.has(seq)) return { verdict: "duplicate", ready: [] };
    this.#hold(stream, seq, push);
    return { verdict: "hole", ready: [] };
  }

  /**
   * Takes over what a resume answered for one stream.
   *
   * @param {string} stream
   * @param {number} asked The position the resume was asked with.
   * @param {{seq: number, complete: boolean}} answer
   * @returns {{ready: Push[], complete: boolean}} `complete` is false when the application lacks entries for good.
   */
  resumed(stream, asked, { seq, complete }) {
    if (!this.#last.has(stream)) return { ready: [], complete: true }; // forgotten meanwhile
    if (seq < asked) {
      // The stream is behind what this client has seen: it was begun anew. Clinging to the old position would
      // drop everything from now on.
      this.#held.delete(stream);
      this.#last.set(stream, seq);
      return { ready: [], complete: false };
    }
    return { ready: this.#release(stream, seq), complete };
  }

  /**
   * Gives up on the holes of a stream that cannot be resumed, and passes on what was held.
   *
   * @param {string} stream
   * @returns {Push[]}
   */
  skip(stream) {
    return this.#release(stream, Math.max(0, ...(this.#held.get(stream)?.keys() ?? [])));
  }

  /**
   * Takes a position learned elsewhere, such as from the answer to a join. Where a position is known already it stays:
   * to jump ahead would drop what is still on its way.
   *
   * @param {string} stream
   * @param {number} seq
   */
  track(stream, seq) {
    if (!this.#last.has(stream)) this.#last.set(stream, seq);
  }

  /** @param {string} stream */
  forget(stream) {
    this.#last.delete(stream);
    this.#held.delete(stream);
  }

  /**
   * Whether something of this domain waits behind a hole.
   *
   * @param {string} domain
   */
  hasHole(domain) {
    return [...this.#held.keys()].some((stream) => domainOf(stream) === domain);
  }

  /** @returns {string[]} domains that have a position, each once */
  domains() {
    return [...new Set([...this.#last.keys()].map(domainOf))];
  }

  /**
   * @param {string} domain
   * @returns {[string, number][]} streams and positions to resume with
   */
  ofDomain(domain) {
    return [...this.#last].filter(([stream]) => domainOf(stream) === domain);
  }

  /** @returns {Record<string, number>} */
  toJSON() {
    return Object.fromEntries(this.#last);
  }

  /**
   * @param {string} stream
   * @param {number} seq
   * @param {Push} push
   */
  #hold(stream, seq, push) {
    const held = this.#held.get(stream) ?? new Map();
    if (held.size < HELD_LIMIT) this.#held.set(stream, held.set(seq, push));
  }

  /**
   * Moves up to `seq`, and on over what follows without a hole. Everything held on the way is handed out in order.
   *
   * @param {string} stream
   * @param {number} seq
   */
  #release(stream, seq) {
    let last = Math.max(seq, this.#last.get(stream) ?? 0);
    const held = this.#held.get(stream) ?? new Map();
    const ready = [];
    for (const next of [...held.keys()].sort((a, b) => a - b)) {
      if (next > last + 1) break;
      ready.push(held.get(next));
      held.delete(next);
      last = Math.max(last, next);
    }
    if (held.size === 0) this.#held.delete(stream);
    this.#last.set(stream, last);
    return ready;
  }
}

/**
 * The service a stream belongs to: `chat:lobby` is chat's.
 *
 * @param {string} stream
 */
export function domainOf(stream) {
  return stream.split(":", 1)[0];
}
