/**
 * One room as this page knows it: what was said, how far it was read. No I/O; every function gives a new room.
 *
 * Entries come from pushes, answers and pages of history, in any order and more than once; they stand by `seq`, each
 * once. Messages of others after `readSeq` count as unread; pages of history never change the count.
 */
import type {
  CrowdCounted,
  History,
  MemberChange,
  MessageDeleted,
  MessageEdited,
  OwnerChange,
  RoomSummary,
  Message as MessageData,
} from "@towpath/client";

import { isDirect, partner } from "./names.ts";

export interface Message {
  readonly kind: "message";
  readonly seq: number;
  readonly user: string;
  readonly text: string;
  readonly sentAt: number;
  readonly editedAt: number | null;
  readonly deleted: boolean;
  /** The reference it was sent with, where the sender gave one. */
  readonly ref: string | null;
}

/** A member joined, left, was removed by the owner, or became the owner. */
export interface Note {
  readonly kind: "joined" | "left" | "removed" | "owner";
  readonly seq: number;
  readonly user: string;
}

export type Entry = Message | Note;

export interface Crowd {
  readonly members: number;
  /** Null before the first `chat.crowd`. */
  readonly online: number | null;
}

export interface Room {
  readonly name: string;
  readonly title: string;
  readonly me: string;
  /** The other person of a two-person room, else null. */
  readonly partner: string | null;
  readonly isPrivate: boolean;
  /** The owner of a private room, as far as the service said; null for other rooms. */
  readonly owner: string | null;
  /** The position of the room's stream, as far as pushes and summaries have it. */
  readonly head: number;
  readonly readSeq: number;
  readonly unread: number;
  /** Later messages were new to the reader; null without any. It outlives the reading, to be shown. */
  readonly newSince: number | null;
  /** How far others have read, by name. */
  readonly readBy: ReadonlyMap<string, number>;
  /** In order. */
  readonly entries: readonly Entry[];
  /** `stranger`: the service says that one is not in it. */
  readonly history: "none" | "loaded" | "stranger";
  readonly hasEarlier: boolean;
  /** The names that the service gave: of a crowd the first ones. Null before its first answer. */
  readonly members: readonly string[] | null;
  /** The numbers of a room whose members are counted and not pushed one by one; null for other rooms. */
  readonly crowd: Crowd | null;
}

export function newRoom(name: string, me: string, title?: string): Room {
  const other = isDirect(name) ? partner(name, me) : null;
  return {
    name,
    title: other ?? (title || name),
    me,
    partner: other,
    isPrivate: false,
    owner: null,
    head: 0,
    readSeq: 0,
    unread: 0,
    newSince: null,
    readBy: new Map(),
    entries: [],
    history: "none",
    hasEarlier: false,
    members: null,
    crowd: null,
  };
}

/** Takes the service's word on a room. Pushes that are newer than it count on top. */
export function summarised(room: Room, data: RoomSummary): Room {
  const readSeq = Math.max(room.readSeq, data.read_seq);
  const unread =
    room.readSeq > data.read_seq
      ? unreadAfter(room, readSeq)
      : data.unread + unreadAfter(room, Math.max(data.seq, readSeq));
  return withDivider(room, {
    ...room,
    title: room.partner ?? (data.title || room.name),
    isPrivate: data.private ?? false,
    owner: data.owner ?? null,
    head: Math.max(room.head, data.seq),
    readSeq,
    unread,
    history: room.history === "stranger" ? "none" : room.history,
  });
}

/**
 * Takes a message that was pushed.
 *
 * @param watching Whether the person sees the end of the room, so that it is read at once.
 */
export function said(room: Room, data: MessageData, { watching }: { watching: boolean }): Room {
  const known = withMessage(room, data);
  if (data.seq <= room.head) return known;
  const isOwn = data.user === room.me;
  // A user who writes has seen the messages before.
  const isRead = watching || (isOwn && room.unread === 0);
  return withDivider(room, {
    ...known,
    head: data.seq,
    readSeq: isRead ? Math.max(room.readSeq, data.seq) : room.readSeq,
    unread: isRead || isOwn || data.deleted || data.hidden || data.seq <= room.readSeq ? room.unread : room.unread + 1,
  });
}

/** Takes a message that this page sent itself, as the answer has it; its push comes besides. */
export function answered(room: Room, data: MessageData): Room {
  return withMessage(room, data);
}

export function edited(room: Room, data: Omit<MessageEdited, "room" | "user">, head: number): Room {
  const change = (message: Message): Message =>
    message.deleted || data.deleted ? message : { ...message, text: data.text, editedAt: data.edited_at };
  // A push that is replayed after the deletion of its message has no text; the deletion follows it.
  return { ...changed(room, data.seq, change), head: Math.max(room.head, head) };
}

export function deleted(room: Room, data: Pick<MessageDeleted, "seq">, head: number): Room {
  const before = find(room, data.seq);
  const counted =
    before?.kind === "message" && !before.deleted && before.user !== room.me && data.seq > room.readSeq;
  return {
    ...changed(room, data.seq, (message) => ({ ...message, text: "", deleted: true })),
    head: Math.max(room.head, head),
    unread: counted ? Math.max(0, room.unread - 1) : room.unread,
  };
}

/** Applies the change of the owner. */
export function owned(room: Room, { seq, user }: Pick<OwnerChange, "seq" | "user">): Room {
  const entries = find(room, seq) ? room.entries : inserted(room.entries, { kind: "owner", seq, user });
  const readSeq = room.unread === 0 ? Math.max(room.readSeq, seq) : room.readSeq;
  return { ...room, entries, owner: user, head: Math.max(room.head, seq), readSeq };
}

/** Applies a join or a leave. */
export function noted(
  room: Room,
  kind: "joined" | "left" | "removed",
  { seq, user }: Pick<MemberChange, "seq" | "user">,
): Room {
  const others = room.members?.filter((member) => member !== user);
  const members = others && kind === "joined" ? [...others, user].sort() : others;
  const entries = find(room, seq) ? room.entries : inserted(room.entries, { kind, seq, user });
  const isRead = room.unread === 0; // a join need not be read
  return {
    ...room,
    entries,
    members: members ?? null,
    crowd: null, // in a crowd there are no pushes about single members
    head: Math.max(room.head, seq),
    readSeq: isRead ? Math.max(room.readSeq, seq) : room.readSeq,
  };
}

/** Takes the names of members, and how many there are if the room is a crowd. */
export function listed(room: Room, members: readonly string[], count: number | null | undefined): Room {
  const crowd = count == null ? null : { members: count, online: room.crowd?.online ?? null };
  return { ...room, members: [...members].sort(), crowd };
}

/** Takes the numbers of a crowd. */
export function counted(room: Room, { members, online }: Pick<CrowdCounted, "members" | "online">): Room {
  return { ...room, crowd: { members, online } };
}

/** Takes a page of history. */
export function paged(room: Room, { messages, has_more }: History): Room {
  const loaded = messages.reduce(withMessage, room);
  return { ...loaded, history: "loaded", hasEarlier: has_more };
}

/** Forgets the messages, to load them again. */
export function emptied(room: Room): Room {
  return { ...room, entries: [], history: "none", hasEarlier: false };
}

/** The person has seen all of it. */
export function seen(room: Room): Room {
  if (room.unread === 0 && room.readSeq >= room.head) return room;
  return { ...room, readSeq: Math.max(room.readSeq, room.head), unread: 0 };
}

/** The person goes elsewhere, or answers: what is read is not new any more. */
export function turnedAway(room: Room): Room {
  return room.unread === 0 && room.newSince !== null ? { ...room, newSince: null } : room;
}

/** Another user, or one's own other window, has read up to `seq`. */
export function readUpTo(room: Room, user: string, seq: number): Room {
  if (user !== room.me) {
    if ((room.readBy.get(user) ?? 0) >= seq) return room;
    return { ...room, readBy: new Map(room.readBy).set(user, seq) };
  }
  if (seq <= room.readSeq) return room;
  return { ...room, readSeq: seq, unread: seq >= room.head ? 0 : Math.min(room.unread, unreadAfter(room, seq)) };
}

/** The first message that is loaded, to load earlier ones from; null when there is none. */
export function firstMessage(room: Room): Message | null {
  return room.entries.find((entry) => entry.kind === "message") ?? null;
}

/** One's last message that can be edited. */
export function lastOwn(room: Room): Message | null {
  const own = (entry: Entry): entry is Message =>
    entry.kind === "message" && entry.user === room.me && !entry.deleted;
  return room.entries.findLast(own) ?? null;
}

/** One's last message if the other person of a two-person room has read it, else null. */
export function lastSeenByPartner(room: Room): number | null {
  if (room.partner === null) return null;
  const last = lastOwn(room);
  return last !== null && (room.readBy.get(room.partner) ?? 0) >= last.seq ? last.seq : null;
}

function unreadAfter(room: Room, seq: number): number {
  return room.entries.filter(
    (entry) => entry.seq > seq && entry.kind === "message" && entry.user !== room.me && !entry.deleted,
  ).length;
}

/** Keeps where the unread begins, from the first of them on. */
function withDivider(before: Room, after: Room): Room {
  return before.unread === 0 && after.unread > 0 ? { ...after, newSince: after.readSeq } : after;
}

/** A hidden message, of a user whom this one blocked, has its place in the stream and none in the view. */
function withMessage(room: Room, data: MessageData): Room {
  if (data.hidden) return room;
  const known = find(room, data.seq);
  const message: Message = {
    kind: "message",
    seq: data.seq,
    user: data.user,
    text: data.text,
    sentAt: data.sent_at,
    editedAt: data.edited_at ?? null,
    deleted: data.deleted === true || (data.deleted_at !== undefined && data.deleted_at !== null),
    ref: data.client_ref ?? null,
  };
  if (known === undefined) return { ...room, entries: inserted(room.entries, message) };
  if (known.kind !== "message" || !isNewer(message, known)) return room;
  return changed(room, data.seq, () => ({ ...message, ref: message.ref ?? known.ref }));
}

function isNewer(message: Message, known: Message): boolean {
  if (known.deleted || message.deleted) return message.deleted && !known.deleted;
  return (message.editedAt ?? 0) > (known.editedAt ?? 0);
}

function changed(room: Room, seq: number, change: (message: Message) => Message): Room {
  const at = room.entries.findLastIndex((entry) => entry.seq === seq);
  const entry = room.entries[at];
  return entry?.kind === "message" ? { ...room, entries: room.entries.with(at, change(entry)) } : room;
}

function find(room: Room, seq: number): Entry | undefined {
  return room.entries.findLast((entry) => entry.seq === seq);
}

function inserted(entries: readonly Entry[], entry: Entry): readonly Entry[] {
  const before = entries.findLastIndex((other) => other.seq < entry.seq);
  return entries.toSpliced(before + 1, 0, entry);
}
