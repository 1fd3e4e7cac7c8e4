/**
 * One room as this page knows it: what was said, how far it was read. No I/O; every function gives a new room.
 *
 * Two things follow the room's stream, and each push concerns both. The count (`head`, `readSeq`, `unread`) is kept for
 * every room: the service's numbers, and every push after them. The conversation (`entries`) is there for rooms that
 * were opened: a state of the history, and every entry after it.
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
  /** Those of the unread messages whose `seq` is known here; of earlier ones the service gave only the number. */
  readonly fresh: readonly number[];
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
    fresh: [],
    newSince: null,
    readBy: new Map(),
    entries: [],
    history: "none",
    hasEarlier: false,
    members: null,
    crowd: null,
  };
}

// The count

/** Takes the service's word on a room. Pushes that are newer than it count on top. */
export function summarised(room: Room, data: RoomSummary): Room {
  const readSeq = Math.max(room.readSeq, data.read_seq);
  const fresh = room.fresh.filter((seq) => seq > readSeq);
  const later = fresh.filter((seq) => seq > data.seq);
  const unread = room.readSeq > data.read_seq ? fresh.length : data.unread + later.length;
  return withDivider(room, {
    ...room,
    title: room.partner ?? (data.title || room.name),
    isPrivate: data.private ?? false,
    owner: data.owner ?? null,
    head: Math.max(room.head, data.seq),
    readSeq,
    unread,
    fresh,
    history: room.history === "stranger" ? "none" : room.history,
  });
}

/**
 * Counts a message that was pushed.
 *
 * @param watching Whether the person sees the end of the room, so that it is read at once.
 */
export function said(room: Room, data: MessageData, { watching }: { watching: boolean }): Room {
  if (data.seq <= room.head) return room;
  const isOwn = data.user === room.me;
  const known = { ...room, head: data.seq };
  // A user who writes has seen the messages before.
  if (watching || (isOwn && room.unread === 0)) return readTo(known, data.seq, room.unread);
  if (isOwn || data.deleted || data.hidden || data.seq <= room.readSeq) return known;
  return withDivider(room, { ...known, unread: room.unread + 1, fresh: [...room.fresh, data.seq] });
}

/** A message that was pushed is deleted; it need not be read any more. */
export function withdrawn(room: Room, { seq }: Pick<MessageDeleted, "seq">, head: number): Room {
  const fresh = room.fresh.filter((other) => other !== seq);
  const unread = Math.max(0, room.unread - (room.fresh.length - fresh.length));
  return { ...room, head: Math.max(room.head, head), unread, fresh };
}

/** The stream goes on with something else than a message. */
export function advanced(room: Room, seq: number): Room {
  return seq <= room.head ? room : { ...room, head: seq };
}

/** Applies the change of the owner. */
export function owned(room: Room, { seq, user }: Pick<OwnerChange, "seq" | "user">): Room {
  return { ...noted(room, seq), owner: user };
}

/** Applies a join or a leave. */
export function moved(room: Room, { seq, user }: Pick<MemberChange, "seq" | "user">, isIn: boolean): Room {
  const others = room.members?.filter((member) => member !== user);
  const members = others && isIn ? [...others, user].sort() : others;
  // In a crowd there are no pushes about single members.
  return { ...noted(room, seq), members: members ?? null, crowd: null };
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

/** The person has seen all of it. */
export function seen(room: Room): Room {
  if (room.unread === 0 && room.readSeq >= room.head) return room;
  return readTo(room, room.head, 0);
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
  const after = room.fresh.filter((other) => other > seq).length;
  return readTo(room, seq, seq >= room.head ? 0 : Math.min(room.unread, after));
}

function readTo(room: Room, seq: number, unread: number): Room {
  const readSeq = Math.max(room.readSeq, seq);
  return { ...room, readSeq, unread, fresh: room.fresh.filter((other) => other > readSeq) };
}

/** An entry about members need not be read. */
function noted(room: Room, seq: number): Room {
  const head = Math.max(room.head, seq);
  return room.unread === 0 ? { ...room, head, readSeq: Math.max(room.readSeq, seq) } : { ...room, head };
}

/** Keeps where the unread begins, from the first of them on. */
function withDivider(before: Room, after: Room): Room {
  return before.unread === 0 && after.unread > 0 ? { ...after, newSince: after.readSeq } : after;
}

// The conversation

/** Takes the end of the history, in place of what is there. */
export function loaded(room: Room, { messages, has_more, seq }: History): Room {
  // Answers to messages of one's own may be ahead of the state.
  const ahead = room.entries.filter((entry) => entry.seq > seq);
  const isFresh = (one: MessageData) =>
    one.seq > room.readSeq && one.seq <= room.head && one.user !== room.me && !isGone(one) && !one.hidden;
  const unread = messages.filter(isFresh).map((one) => one.seq);
  const fresh = [...new Set([...room.fresh, ...unread])].sort((one, other) => one - other);
  const emptied: Room = { ...room, entries: ahead, fresh, history: "loaded", hasEarlier: has_more };
  return messages.reduce(withMessage, emptied);
}

/** Takes a page of earlier messages. */
export function extended(room: Room, { messages, has_more }: History): Room {
  return { ...messages.reduce(withMessage, room), hasEarlier: has_more };
}

/** Takes the next entry of the stream. */
export function continued(room: Room, { action, data }: { action: string; data: object }): Room {
  return ENTRIES[action]?.(room, data) ?? room;
}

/** Takes a message that this page sent itself, as the answer has it; its push comes besides. */
export function answered(room: Room, data: MessageData): Room {
  return withMessage(room, data);
}

export function edited(room: Room, data: Omit<MessageEdited, "room" | "user">): Room {
  // A push that is replayed after the deletion of its message has no text; the deletion follows it.
  return changed(room, data.seq, (message) =>
    message.deleted || data.deleted ? message : { ...message, text: data.text, editedAt: data.edited_at },
  );
}

export function deleted(room: Room, data: Pick<MessageDeleted, "seq">): Room {
  return changed(room, data.seq, (message) => ({ ...message, text: "", deleted: true }));
}

/** Forgets the messages, to load them again. */
export function emptied(room: Room): Room {
  return { ...room, entries: [], history: "none", hasEarlier: false };
}

/** How each push of a room's stream goes on with the conversation. */
const ENTRIES: Readonly<Record<string, (room: Room, data: any) => Room>> = {
  "chat.message": withMessage,
  "chat.edited": edited,
  "chat.deleted": deleted,
  "chat.joined": (room, data: MemberChange) => withNote(room, "joined", data),
  "chat.left": (room, data: MemberChange) => withNote(room, data.by ? "removed" : "left", data),
  "chat.owner": (room, data: OwnerChange) => withNote(room, "owner", data),
};

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
    deleted: isGone(data),
    ref: data.client_ref ?? null,
  };
  if (known === undefined) return { ...room, entries: inserted(room.entries, message) };
  if (known.kind !== "message" || !isNewer(message, known)) return room;
  return changed(room, data.seq, () => ({ ...message, ref: message.ref ?? known.ref }));
}

function withNote(room: Room, kind: Note["kind"], { seq, user }: Pick<MemberChange, "seq" | "user">): Room {
  return find(room, seq) ? room : { ...room, entries: inserted(room.entries, { kind, seq, user }) };
}

/** Whether a message was deleted, as a replay or as a history says it. */
function isGone({ deleted, deleted_at }: MessageData): boolean {
  return deleted === true || (deleted_at !== undefined && deleted_at !== null);
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
