/** The person's notifications, newest first, as far as they are loaded; and which of them are read. No I/O. */

export interface Notification {
  readonly id: string;
  readonly seq: number;
  readonly kind: string;
  readonly title: string;
  readonly text: string;
  readonly link?: string;
  /** In Unix milliseconds. */
  readonly created_at: number;
}

export interface Page {
  readonly notifications: readonly Notification[];
  readonly seq: number;
  readonly read_seq: number;
  readonly unread: number;
  readonly has_more: boolean;
}

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

/** Takes the newest page, which begins a list, or an older one, which goes on with it. */
export function paged(notified: Notified, page: Page, { older }: { older: boolean }): Notified {
  const list = older ? merged(notified.list, page.notifications) : page.notifications;
  if (older) return { ...notified, list, hasOlder: page.has_more };
  // Pushes may have come before the answer.
  const later = notified.list.filter(({ seq }) => seq > page.seq);
  return {
    list: merged(later, list),
    head: Math.max(notified.head, page.seq),
    readSeq: Math.max(notified.readSeq, page.read_seq),
    unread: notified.readSeq > page.read_seq ? notified.unread : page.unread + later.length,
    hasOlder: page.has_more,
  };
}

/** Takes one that was pushed. */
export function notified(before: Notified, one: Notification): Notified {
  if (one.seq <= before.head) return before;
  const isUnread = one.seq > before.readSeq;
  return {
    ...before,
    list: merged([one], before.list),
    head: one.seq,
    unread: before.unread + (isUnread ? 1 : 0),
  };
}

/** The person has read all up to `readSeq`, here or in another window. */
export function read(before: Notified, { read_seq, unread }: { read_seq: number; unread: number }): Notified {
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

function merged(one: readonly Notification[], other: readonly Notification[]): readonly Notification[] {
  const all = new Map([...one, ...other].map((notification) => [notification.seq, notification]));
  return [...all.values()].sort((left, right) => right.seq - left.seq);
}
