/** Users typing in a room, and until when. No I/O. The signal is transient: without another one it ends. */

/** How long one word of it lasts, in milliseconds. */
export const LASTS_MS = 5_000;

/** By name, the Unix milliseconds at which it ends. */
export type Typing = ReadonlyMap<string, number>;

export function started(typing: Typing, user: string, now: number): Typing {
  return new Map(typing).set(user, now + LASTS_MS);
}

export function stopped(typing: Typing, user: string): Typing {
  if (!typing.has(user)) return typing;
  return new Map([...typing].filter(([name]) => name !== user));
}

/** Without those whose time is over. */
export function remaining(typing: Typing, now: number): Typing {
  const left = [...typing].filter(([, until]) => until > now);
  return left.length === typing.size ? typing : new Map(left);
}

/** Milliseconds until the next one ends; null when no user types. */
export function nextEnd(typing: Typing, now: number): number | null {
  return typing.size === 0 ? null : Math.max(0, Math.min(...typing.values()) - now);
}
