/** Where positions outlive the client, so that the next one goes on where this one ended. */

/** The last `seq` of each stream. */
export type StreamPositions = Record<string, number>;

export interface PositionStorage {
  load(): StreamPositions | null | undefined | PromiseLike<StreamPositions | null | undefined>;
  save(positions: StreamPositions): void | PromiseLike<void>;
}

/** Keeps positions as long as the program runs: for clients that come and go. */
export function memoryStorage(positions: StreamPositions = {}): PositionStorage {
  let kept = { ...positions };
  return { load: () => kept, save: (saved) => void (kept = saved) };
}

/** The common part of `localStorage` and `sessionStorage`. */
export interface WebStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/**
 * Keeps positions in the browser.
 *
 * @param key The item they are kept under; one for each user, since streams belong to users.
 * @param storage `localStorage` by default. Each tab needs its own item, or `sessionStorage`.
 */
export function webStorage(key: string, storage?: WebStorage): PositionStorage {
  const kept = () => storage ?? localStorage; // looked up late: where it is forbidden, even to name it throws
  return {
    load: () => JSON.parse(kept().getItem(key) ?? "null"),
    save: (positions) => kept().setItem(key, JSON.stringify(positions)),
  };
}
