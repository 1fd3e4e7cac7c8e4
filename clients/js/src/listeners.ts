/**
 * Listeners by name. One that throws, or whose promise is rejected, does not stop the others: the error goes to the
 * `error` listeners, and without any to the console.
 */
type Listener = (...values: any[]) => unknown;

export class Listeners {
  readonly #listeners = new Map<string, Set<Listener>>();

  /** Adds a listener; the returned function removes it. */
  add(name: string, listener: Listener): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  emit(name: string, ...values: unknown[]): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) this.call(listener, ...values);
  }

  call(listener: Listener | undefined, ...values: unknown[]): void {
    attempt(listener, values, (error) => this.report(error));
  }

  report(error: unknown): void {
    const listeners = this.#listeners.get("error");
    if (!listeners?.size) return console.error(error);
    for (const listener of [...listeners]) attempt(listener, [error], console.error);
  }
}

/** Calls `listener` when the signal, if any, aborts; the returned function removes it. */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  signal?.addEventListener("abort", listener);
  return () => signal?.removeEventListener("abort", listener);
}

/** Calls `listener`; `failed` hears if it throws, or if the promise that it gives is rejected. */
export function attempt(listener: Listener | undefined, values: unknown[], failed: (error: unknown) => void): void {
  try {
    const result = listener?.(...values) as PromiseLike<unknown> | undefined;
    if (typeof result?.then === "function") result.then(undefined, failed);
  } catch (error) {
    failed(error);
  }
}
