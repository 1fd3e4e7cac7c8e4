/**
 * Finds out that pushes of a stream were missed, from a position that the service gives beside the stream.
 *
 * That position may overtake the pushes before it, so the client has a few seconds to get there. The wait is drawn at
 * random: all members of a crowd hear the same position in the same moment.
 */

export const WAIT_MS = 2_000;
export const SPREAD_MS = 3_000;

export class CatchingUp {
  #position: (stream: string) => number | undefined;
  #resume: () => void;
  /** By stream: what the client should have got to when the time is up, and what was given since. */
  #expected = new Map<string, { seq: number; latest: number }>();
  #due: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param position where the client is in a stream; undefined if it does not follow it
   * @param resume resumes the streams
   */
  constructor(position: (stream: string) => number | undefined, resume: () => void) {
    this.#position = position;
    this.#resume = resume;
  }

  /** The service reports the position `seq` of the stream. */
  expect(stream: string, seq: number): void {
    if (!this.#isBehind(stream, seq)) return;
    const expected = this.#expected.get(stream);
    if (expected !== undefined) expected.latest = seq;
    else this.#expected.set(stream, { seq, latest: seq });
    this.#due ??= setTimeout(() => this.#look(), WAIT_MS + Math.random() * SPREAD_MS);
  }

  /** Nothing is expected any more. */
  stop(): void {
    clearTimeout(this.#due);
    this.#due = undefined;
    this.#expected.clear();
  }

  #look(): void {
    const expected = [...this.#expected];
    this.stop();
    if (expected.some(([stream, { seq }]) => this.#isBehind(stream, seq))) return this.#resume();
    for (const [stream, { latest }] of expected) this.expect(stream, latest);
  }

  #isBehind(stream: string, seq: number): boolean {
    const position = this.#position(stream);
    return position !== undefined && position < seq;
  }
}
