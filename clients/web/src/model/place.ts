/** Where the person is, as the address has it: `#/chat`, `#/chat/<room>`, `#/orders`. No I/O. */

export type View = "chat" | "orders";

export interface Place {
  readonly view: View;
  /** The open room. It stays open beside the orders. */
  readonly room: string | null;
}

export function parsePlace(hash: string): Place {
  const [view, room] = hash.replace(/^#\/?/, "").split("/");
  const name = decoded(room ?? "");
  if (view === "orders") return { view, room: name };
  return { view: "chat", room: view === "chat" ? name : null };
}

export function hashOf({ view, room }: Place): string {
  return room === null ? `#/${view}` : `#/${view}/${encodeURIComponent(room)}`;
}

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text) || null;
  } catch {
    return null; // typed by hand
  }
}
