/** Tells the service how far one has read: once for a burst of messages, and only what it does not know. */

const AFTER_MS = 400;

export class Reading {
  #tell: (room: string, seq: number) => Promise<unknown>;
  #readSeq: (room: string) => number;
  #told = new Map<string, number>();
  #due = new Set<string>();

  /**
   * @param readSeq how far a room is read now
   * @param tell tells the service; when it fails, the next reading tells it again
   */
  constructor(readSeq: (room: string) => number, tell: (room: string, seq: number) => Promise<unknown>) {
    this.#readSeq = readSeq;
    this.#tell = tell;
  }

  /** Something of a room was read. */
  soon(room: string): void {
    if (this.#due.has(room)) return;
    this.#due.add(room);
    setTimeout(() => {
      this.#due.delete(room);
      void this.#now(room);
    }, AFTER_MS);
  }

  /** The room is gone. */
  forget(room: string): void {
    this.#told.delete(room);
  }

  async #now(room: string): Promise<void> {
    const [before, seq] = [this.#told.get(room) ?? 0, this.#readSeq(room)];
    if (seq <= before) return;
    this.#told.set(room, seq);
    try {
      await this.#tell(room, seq);
    } catch {
      this.#told.set(room, before);
    }
  }
}
