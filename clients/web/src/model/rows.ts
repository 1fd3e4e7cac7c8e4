/**
 * The rows of a conversation, top to bottom: days, the line above new messages, messages, notes, drafts. No I/O.
 *
 * Keys are stable, and a draft and the message it becomes have the same one.
 */
import type { Draft } from "./outbox.ts";
import type { Entry, Message, Note } from "./room.ts";

/** Messages of one person that follow within this time stand together. */
const TOGETHER_MS = 5 * 60_000;

export type Row =
  | { kind: "day"; key: string; at: number }
  | { kind: "new"; key: string }
  | { kind: "note"; key: string; note: Note }
  | { kind: "message"; key: string; message: Message; together: boolean }
  | { kind: "draft"; key: string; draft: Draft; together: boolean };

/** @param newSince what came after this `seq` was new; null when nothing was */
export function rowsOf(
  entries: readonly Entry[],
  drafts: readonly Draft[],
  { me, newSince }: { me: string; newSince: number | null },
): Row[] {
  const rows: Row[] = [];
  let day: string | null = null;
  let before: { user: string; at: number } | null = null;
  let isDivided = newSince === null;

  const part = (row: Row) => {
    rows.push(row);
    before = null;
  };
  const beginDay = (at: number) => {
    const itsDay = new Date(at).toDateString();
    if (itsDay !== day) part({ kind: "day", key: `day ${itsDay}`, at });
    day = itsDay;
  };
  const follows = (user: string, at: number) => {
    const together = before !== null && before.user === user && at - before.at < TOGETHER_MS;
    before = { user, at };
    return together;
  };

  for (const entry of entries) {
    if (entry.kind !== "message") {
      part({ kind: "note", key: `note ${entry.seq}`, note: entry });
      continue;
    }
    beginDay(entry.sentAt);
    if (!isDivided && entry.seq > newSince! && entry.user !== me) {
      part({ kind: "new", key: "new" });
      isDivided = true;
    }
    const key = entry.user === me && entry.ref !== null ? `sent ${entry.ref}` : `message ${entry.seq}`;
    rows.push({ kind: "message", key, message: entry, together: follows(entry.user, entry.sentAt) });
  }
  for (const draft of drafts) {
    beginDay(draft.at);
    rows.push({ kind: "draft", key: `sent ${draft.ref}`, draft, together: follows(me, draft.at) });
  }
  return rows;
}
