/** The state of the connection, and, while there is none, the time of the next attempt. */
import { type ReadonlySignal, computed, effect, signal } from "@preact/signals";
import type { Client, State } from "@towpath/client";

export class ConnectionState {
  readonly state = signal<State>("connecting");
  /** Which gateway holds the connection; null while none does. */
  readonly gateway = signal<string | null>(null);
  /** Why it is closed. */
  readonly error = signal<unknown>(null);
  /** Seconds until the next attempt; 0 while it is under way; null where none comes. */
  readonly retryIn: ReadonlySignal<number | null>;
  #retryAt = signal<number | null>(null);
  #now = signal(Date.now());

  constructor(client: Client) {
    this.retryIn = computed(() => {
      const at = this.#retryAt.value;
      return at === null ? null : Math.max(0, Math.ceil((at - this.#now.value) / 1_000));
    });
    effect(() => {
      if (this.#retryAt.value === null) return;
      const ticking = setInterval(() => (this.#now.value = Date.now()), 250);
      return () => clearInterval(ticking);
    });
    client.on("retry", ({ delayMs }) => {
      this.#now.value = Date.now();
      this.#retryAt.value = Date.now() + delayMs;
    });
    client.onState((state, error) => {
      this.state.value = state;
      this.gateway.value = state === "open" ? (client.connection?.gateway_id ?? null) : null;
      this.error.value = error ?? null;
      if (state === "open" || state === "closed") this.#retryAt.value = null; // ends the ticking, too
    });
  }
}
