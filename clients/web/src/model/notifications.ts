/** The person's notifications, newest first, as far as they are loaded; and which of them are read. No I/O. */
import type { Notification, NotificationPage, NotificationsRead } from "@towpath/client";

export interface Notified {
  /** Newest first, each once. */
  readonly list: readonly Notification[];
  /** All up to here are known. */
  readonly head: number;
  readonly readSeq: number;
  readonly unread: number;
  readonly hasOlder: boolean;
}

export const NONE: Notified = { list: [], head: 0, readSeq: 0, unread: 0, hasOlder: false };

/** Takes the newest page, in place of what is listed. */
export function listed(before: Notified, page: NotificationPage): Notified {
  // That more is read has its own push, which may come before the page.
  const isAhead = before.readSeq > page.read_seq;
  const later = page.notifications.filter(({ seq }) => seq > before.readSeq);
  return {
    list: page.notifications,
    head: Math.max(page.seq, page.notifications[0]?.seq ?? 0), // it may have a little more than its position
    readSeq: Math.max(before.readSeq, page.read_seq),
    unread: isAhead ? later.length : page.unread,
    hasOlder: page.has_more,
  };
}

/** Takes the page that follows the last one. */
export function extended(before: Notified, page: NotificationPage): Notified {
  return { ...before, list: [...before.list, ...page.notifications], hasOlder: page.has_more };
}

/** Takes the next one. */
export function notified(before: Notified, one: Notification): Notified {
  if (one.seq <= before.head) return before; // the page may have had it already
  const isUnread = one.seq > before.readSeq;
  return {
    ...before,
    list: [one, ...before.list],
    head: one.seq,
    unread: before.unread + (isUnread ? 1 : 0),
  };
}

/** The person has read all up to `readSeq`, here or in another window. */
export function read(before: Notified, { read_seq, unread }: NotificationsRead): Notified {
  return read_seq < before.readSeq ? before : { ...before, readSeq: read_seq, unread };
}

/** Where a notification leads: an order, a room, or nowhere. */
export function target({ link }: Notification): { order: string } | { room: string } | null {
  const [kind, name] = (link ?? "").split("/", 2);
  try {
    const decoded = decodeURIComponent(name ?? "");
    if (decoded === "") return null;
    return kind === "order" ? { order: decoded } : kind === "room" ? { room: decoded } : null;
  } catch {
    return null;
  }
}
