/** Work with a time limit. */
import { onAbort } from "./listeners.js";
import { LONGEST_TIMER_MS } from "./times.js";

/**
 * Does `work`, and rejects with `late()` when it takes longer than `ms`. Later results are ignored.
 *
 * @param ended The caller has stopped waiting: the timer is removed, and the promise stays as it is.
 */
export async function within<Result>(
  ms: number,
  work: () => Result | PromiseLike<Result>,
  late: () => Error,
  ended?: AbortSignal,
): Promise<Result> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const stop = () => clearTimeout(timer);
  const unlisten = onAbort(ended, stop);
  const limit = new Promise<never>((_, reject) => {
    if (ms <= LONGEST_TIMER_MS) timer = setTimeout(() => reject(late()), ms);
  });
  try {
    return await Promise.race([work(), limit]);
  } finally {
    stop();
    unlisten();
  }
}
