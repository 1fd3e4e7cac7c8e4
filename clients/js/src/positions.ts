/**
 * Positions in streams: nothing missed, nothing twice. No I/O.
 *
 * A durable push carries `stream` and `seq`, and `seq` grows by exactly 1. A push the client has is dropped, the
 * next one is passed on, and one that comes after a hole is held until a resume fills the hole. So pushes of one
 * stream leave here in order, each once.
 *
 * A stream is *opening* while a request is in flight whose answer has the position of the stream: pushes of the
 * meantime are held until then, because the pushes before them are unknown.
 */

/** Past this many held pushes of one stream the rest is dropped and left to a resume, which replays it. */
const HELD_LIMIT = 1_000;

/** The state of a stream besides its position. */
class Ahead<Push> {
  /** Pushes that came too early, by `seq`. */
  readonly pushes = new Map<number, Push>();
  /** How far the stream is known to go besides: what was dropped for want of room, or what an answer said. */
  reach = 0;
  /** How many answers may have the position of an opening stream. */
  openers = 0;

  add(seq: number, push: Push): void {
    if (this.pushes.size < HELD_LIMIT || this.pushes.has(seq)) this.pushes.set(seq, push);
    else this.reaches(seq);
  }

  reaches(seq: number): void {
    this.reach = Math.max(this.reach, seq);
  }
}

export class Positions<Push> {
  /** The last `seq` passed on. */
  readonly #last: Map<string, number>;
  /** Streams with a hole; without a position, those that are opening. */
  readonly #ahead = new Map<string, Ahead<Push>>();

  /** @param positions Entries that cannot be positions are left out. */
  constructor(positions: Record<string, number> = {}) {
    this.#last = new Map(Object.entries(positions).filter(([, seq]) => isPosition(seq)));
  }

  /**
   * A push came. The first one of an unknown stream counts as the next.
   *
   * @returns what may go to the application now, in order
   */
  arrive(stream: string, seq: number, push: Push): Push[] {
    const opening = this.#isOpening(stream);
    const next = (this.#last.get(stream) ?? seq - 1) + 1;
    if (opening || seq > next) this.#aheadOf(stream).add(seq, push);
    if (opening || seq !== next) return [];
    this.#last.set(stream, seq);
    return [push, ...this.#release(stream, seq)];
  }

  /** An answer will have the position of this stream. A stream that has a position continues from it. */
  open(stream: string): void {
    if (!this.#last.has(stream)) this.#aheadOf(stream).openers += 1;
  }

  /**
   * Takes a position learned elsewhere, such as from the answer to a join. Where a position is known already it stays:
   * to jump ahead would drop what is still on its way.
   *
   * @returns what was held meanwhile and follows it
   */
  track(stream: string, seq: number): Push[] {
    if (this.#last.has(stream) || !isPosition(seq)) return [];
    this.#last.set(stream, seq);
    return this.#release(stream, seq);
  }

  /** The stream is known to go up to `seq`; if its position is before that, something is missing. */
  reaches(stream: string, seq: number): void {
    if (seq > (this.#last.get(stream) ?? 0)) this.#aheadOf(stream).reaches(seq);
  }

  /**
   * One of the answers with the position of this stream will not come. If no other one is expected, the first held
   * push counts as the next one.
   *
   * @returns what may go to the application now
   */
  unopened(stream: string): Push[] {
    if (!this.#isOpening(stream)) return [];
    const ahead = this.#aheadOf(stream);
    ahead.openers -= 1;
    if (ahead.openers > 0) return [];
    const { pushes } = ahead;
    if (pushes.size > 0) return this.#release(stream, Math.min(...pushes.keys()));
    this.#ahead.delete(stream);
    return [];
  }

  /**
   * A resume, asked with the position `asked`, was answered up to `seq`.
   *
   * @returns what may go to the application now
   */
  resumed(stream: string, asked: number, seq: number): Push[] {
    if (seq >= asked) return this.#release(stream, seq);
    // The stream is behind this client: it was restarted. Keeping the old position would drop all later pushes.
    this.#ahead.delete(stream);
    this.#last.set(stream, seq);
    return [];
  }

  /** Gives up on the holes of a stream that cannot be resumed; gives what was held. */
  skip(stream: string): Push[] {
    if (!this.isBehind(stream)) return [];
    const ahead = this.#aheadOf(stream);
    ahead.reach = 0;
    return this.#release(stream, Math.max(...ahead.pushes.keys()));
  }

  /** Drops the position, and what is held. */
  forget(stream: string): void {
    this.#last.delete(stream);
    this.#ahead.delete(stream);
  }

  /** The last `seq`; `undefined` if there is none yet. */
  position(stream: string): number | undefined {
    return this.#last.get(stream);
  }

  /** Whether the stream has a position, or is opening. */
  isKnown(stream: string): boolean {
    return this.#last.has(stream) || this.#ahead.has(stream);
  }

  /** Whether something of this stream is known to be missing. */
  isBehind(stream: string): boolean {
    return this.#ahead.has(stream) && this.#last.has(stream);
  }

  /** Whether something of this domain is known to be missing. */
  hasHole(domain: string): boolean {
    return [...this.#ahead.keys()].some((stream) => domainOf(stream) === domain && this.isBehind(stream));
  }

  /** Domains that have a position, each once. */
  domains(): string[] {
    return [...new Set([...this.#last.keys()].map(domainOf))];
  }

  /** Streams and positions to resume with. */
  ofDomain(domain: string): [stream: string, seq: number][] {
    return [...this.#last].filter(([stream]) => domainOf(stream) === domain);
  }

  toJSON(): Record<string, number> {
    return Object.fromEntries(this.#last);
  }

  #isOpening(stream: string): boolean {
    return this.#ahead.has(stream) && !this.#last.has(stream);
  }

  #aheadOf(stream: string): Ahead<Push> {
    const ahead = this.#ahead.get(stream) ?? new Ahead();
    this.#ahead.set(stream, ahead);
    return ahead;
  }

  /** Moves up to `seq`, and on over what follows without a hole. Everything held on the way is handed out in order. */
  #release(stream: string, seq: number): Push[] {
    const before = this.#last.get(stream) ?? 0;
    let last = Math.max(seq, before);
    const ready: Push[] = [];
    const ahead = this.#ahead.get(stream);
    for (const [next, push] of [...(ahead?.pushes ?? [])].sort(([a], [b]) => a - b)) {
      if (next > last + 1) break;
      if (next > before) ready.push(push);
      ahead?.pushes.delete(next);
      last = Math.max(last, next);
    }
    if (ahead?.pushes.size === 0 && ahead.reach <= last) this.#ahead.delete(stream);
    this.#last.set(stream, last);
    return ready;
  }
}

/** Whether `value` can be a position in a stream; an empty one is at 0. */
export function isPosition(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** The service a stream belongs to: `chat:lobby` is chat's. */
export function domainOf(stream: string): string {
  return stream.split(":", 1)[0] as string;
}
