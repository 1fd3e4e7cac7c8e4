/** Asks once more what failed, later and later, until it went well: a service may start after the page does. */
import { TowpathError } from "@towpath/client";

const FIRST_MS = 2_000;
const LAST_MS = 60_000;

export class Again {
  #ask: () => void;
  #wait = FIRST_MS;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(ask: () => void) {
    this.#ask = ask;
  }

  /** It went well, or is not wanted any more. */
  done(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#wait = FIRST_MS;
  }

  /**
   * It failed.
   *
   * @returns whether a person should hear of it: it will not be asked again, or it is the first time
   */
  failed(error: unknown): boolean {
    if (!(error instanceof TowpathError) || !(error.retryable || error.code === "unknown_action")) {
      return !(error instanceof TowpathError && error.code === "closed");
    }
    const isFirst = this.#wait === FIRST_MS;
    if (this.#timer !== undefined) return false; // it is due already
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#ask();
    }, this.#wait);
    this.#wait = Math.min(LAST_MS, this.#wait * 2);
    return isFirst;
  }
}
