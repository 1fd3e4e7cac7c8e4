/**
 * The user who is signed in in this tab, kept by the browser until the tab is closed or the person signs out, so that a reload
 * does not sign out. It is the demo's token, for an hour; the page's policy keeps other scripts away from it.
 *
 * Positions in streams are not kept: after a reload the page loads each state again, and follows it from there.
 */

const KEY = "towpath.visit";
/** A token that ends sooner is not worth connecting with. */
const MARGIN_MS = 30_000;

export interface Visit {
  readonly user: string;
  readonly token: string;
  /** When the token ends, in Unix milliseconds. */
  readonly until: number;
}

/** The visit of this tab, and its token only while it can be used; null without one. */
export function readVisit(storage: Storage | null, now = Date.now()): { user: string; token: string | null } | null {
  try {
    const { user, token, until } = JSON.parse(storage?.getItem(KEY) ?? "null") as Partial<Visit>;
    if (typeof user !== "string" || user === "") return null;
    const isUsable = typeof token === "string" && typeof until === "number" && until - now > MARGIN_MS;
    return { user, token: isUsable ? token : null };
  } catch {
    return null; // nothing is kept, or it was changed by hand
  }
}

export function keepVisit(storage: Storage | null, visit: Visit): void {
  try {
    storage?.setItem(KEY, JSON.stringify(visit));
  } catch {
    // A browser that keeps nothing is fine.
  }
}

/** Ends the visit; nothing of it is kept. */
export function endVisit(storage: Storage | null): void {
  try {
    storage?.clear();
  } catch {
    // As above.
  }
}

/** Names that a user has chosen in this tab, for a purpose. */
export function keptNames(storage: Storage | null, purpose: string, user: string) {
  const key = `towpath.${purpose}.${user}`;
  let names: unknown = null;
  try {
    names = JSON.parse(storage?.getItem(key) ?? "null");
  } catch {
    // Changed by hand.
  }
  const keep = (chosen: readonly string[]): void => {
    try {
      if (chosen.length > 0) storage?.setItem(key, JSON.stringify(chosen));
      else storage?.removeItem(key);
    } catch {
      // As above.
    }
  };
  return { names: Array.isArray(names) ? names.filter((name) => typeof name === "string") : [], keep };
}

/** The tab's own storage; null where the browser has none. */
export function tabStorage(window: Window): Storage | null {
  try {
    return window.sessionStorage;
  } catch {
    return null;
  }
}
