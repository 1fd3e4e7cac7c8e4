/**
 * A view of a stream as the page needs it: it waits for a service that is not there yet, and is opened again after a
 * refusal, with the next connection.
 */
import { type Client, type DurablePush, TowpathError, type View } from "@towpath/client";

export interface Follower<State> {
  /** The state, in place of all that came before; `again` where there was one before and something was missed. */
  reset: (state: State, again: boolean) => void;
  /** The next push of the stream. */
  change: (push: DurablePush) => void;
  /** It cannot be loaded for now, and is tried again. Called once, until it is loaded. */
  failed: (error: TowpathError) => void;
  /** The service refuses it. */
  refused: (error: TowpathError) => void;
}

export class Following<State extends { seq: number }> {
  #client: Client;
  #stream: string;
  #load: (signal: AbortSignal) => Promise<State>;
  #follower: Follower<State>;
  #view: View<State> | null = null;
  #isFailing = false;
  #settle: { loaded: () => void; failed: (error: TowpathError) => void } | null = null;
  #off: () => void;

  /** @param load gives the state with its position; called whenever the state is needed */
  constructor(
    client: Client,
    stream: string,
    load: (signal: AbortSignal) => Promise<State>,
    follower: Follower<State>,
  ) {
    this.#client = client;
    this.#stream = stream;
    this.#load = load;
    this.#follower = follower;
    this.#off = client.onState((state) => {
      if (state === "open") void this.open();
    });
  }

  /** Whether the state is there, or will be. */
  get isOpen(): boolean {
    return this.#view !== null;
  }

  /**
   * Begins, unless it is under way.
   *
   * @returns resolved when the state is there; rejected with the first failure, after which it may be tried again
   */
  open(): Promise<void> {
    if (this.#view !== null) return Promise.resolve();
    this.#isFailing = false;
    const view = this.#client.openView(this.#stream, (signal) => this.#patiently(signal));
    this.#view = view;
    const first = new Promise<void>((loaded, failed) => (this.#settle = { loaded, failed }));
    first.catch(() => {}); // for those who need not know
    void this.#read(view);
    return first;
  }

  /** Ends it. */
  close(): void {
    this.#off();
    this.#view?.close();
    this.#view = null;
  }

  async #patiently(signal: AbortSignal): Promise<State> {
    try {
      return await this.#load(signal);
    } catch (error) {
      if (signal.aborted || !(error instanceof TowpathError)) throw error;
      const isEarly = error.code === "unknown_action"; // a service may start after the page does
      if (!isEarly && !error.retryable) throw error;
      this.#settle?.failed(error);
      // Without a connection the page says that there is none.
      if (!this.#isFailing && this.#client.state === "open") {
        this.#isFailing = true;
        this.#follower.failed(error);
      }
      throw isEarly ? new TowpathError(error.code, error.message, { retryable: true }) : error;
    }
  }

  async #read(view: View<State>): Promise<void> {
    let again = false;
    try {
      for await (const update of view) {
        if (this.#view !== view) return; // closed while this update was on its way here
        if (update.type === "change") {
          this.#follower.change(update.push);
          continue;
        }
        this.#isFailing = false;
        this.#follower.reset(update.state, again);
        this.#settle?.loaded();
        again = true;
      }
    } catch (error) {
      if (this.#view === view) this.#view = null;
      if (!(error instanceof TowpathError)) throw error; // a fault of this page
      this.#settle?.failed(error);
      if (error.code !== "closed") this.#follower.refused(error);
    }
  }
}

/** Whether no service has the action, or the user may not use it. */
export function isAbsent(error: unknown): boolean {
  return error instanceof TowpathError && ["unknown_action", "forbidden"].includes(error.code);
}
