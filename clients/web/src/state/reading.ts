/** Reports the read position: once for a burst of messages, and only changes. */

const AFTER_MS = 400;

export class Reading {
  #report: (room: string, seq: number) => Promise<unknown>;
  #readSeq: (room: string) => number;
  #reported = new Map<string, number>();
  #due = new Set<string>();

  /**
   * @param readSeq how far a room is read now
   * @param report reports to the service; after a failure, the next reading reports it again
   */
  constructor(readSeq: (room: string) => number, report: (room: string, seq: number) => Promise<unknown>) {
    this.#readSeq = readSeq;
    this.#report = report;
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
    this.#reported.delete(room);
  }

  async #now(room: string): Promise<void> {
    const [before, seq] = [this.#reported.get(room) ?? 0, this.#readSeq(room)];
    if (seq <= before) return;
    this.#reported.set(room, seq);
    try {
      await this.#report(room, seq);
    } catch {
      this.#reported.set(room, before);
    }
  }
}
