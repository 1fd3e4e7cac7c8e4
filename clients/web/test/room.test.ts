import assert from "node:assert/strict";
import { describe, test } from "node:test";

import type { Message as MessageData } from "@towpath/client";

import {
  type Room,
  advanced,
  answered,
  continued,
  emptied,
  extended,
  firstMessage,
  lastOwn,
  lastSeenByPartner,
  loaded,
  moved,
  newRoom,
  readUpTo,
  said,
  seen,
  summarised,
  turnedAway,
  withdrawn,
} from "../src/model/room.ts";

const message = (seq: number, more: Partial<MessageData> = {}): MessageData => ({
  room: "lobby",
  seq,
  user: "bob",
  text: `m${seq}`,
  sent_at: seq,
  ...more,
});
const summary = (seq: number, read_seq: number, unread: number) => ({
  room: "lobby",
  title: "The lobby",
  seq,
  read_seq,
  unread,
});
const away = { watching: false };
const lobby = () => newRoom("lobby", "ana");
/** Pushes concern both the count and the conversation. */
const hear = (room: Room, ...messages: MessageData[]) =>
  messages.reduce((so, data) => continued(said(so, data, away), { action: "chat.message", data }), room);
const joined = (room: Room, data: { seq: number; user: string }) =>
  continued(moved(room, data, true), { action: "chat.joined", data });
const edited = (room: Room, data: { seq: number; text: string; edited_at: number; deleted?: true }, seq: number) =>
  continued(advanced(room, seq), { action: "chat.edited", data });
const deleted = (room: Room, data: { seq: number }, seq: number) =>
  continued(withdrawn(room, data, seq), { action: "chat.deleted", data });
const page = (seq: number, messages: MessageData[], has_more = false) => ({ room: "lobby", messages, has_more, seq });
const seqs = (room: Room) => room.entries.map(({ seq }) => seq);
const texts = (room: Room) => room.entries.map((entry) => (entry.kind === "message" ? entry.text : entry.kind));

describe("messages", () => {
  test("are in order and once, and earlier ones stand above them", () => {
    let room = loaded(lobby(), page(9, [message(8), message(9)], true));
    room = joined(hear(room, message(9)), { seq: 10, user: "eve" });
    room = hear(room, message(11));
    room = extended(room, page(11, [message(3), message(5)]));
    assert.deepEqual(seqs(room), [3, 5, 8, 9, 10, 11]);
    assert.deepEqual([firstMessage(room)?.seq, room.hasEarlier, room.history], [3, false, "loaded"]);
  });

  test("that are loaded again replace what was there, but for answers that are ahead", () => {
    let room = hear(lobby(), message(1), message(2));
    room = answered(room, message(9, { user: "ana" }));
    room = loaded(room, page(8, [message(7), message(8)], true));
    assert.deepEqual([seqs(room), room.hasEarlier], [[7, 8, 9], true]);
  });

  test("a message that was deleted before it was replayed shows no text and is not unread", () => {
    let room = hear(lobby(), message(1), message(2, { text: "", deleted: true }));
    room = edited(room, { seq: 2, text: "", edited_at: 7, deleted: true }, 3);
    assert.deepEqual([texts(room), room.unread, room.head], [["m1", ""], 1, 3]);
    room = deleted(room, { seq: 2 }, 4);
    assert.deepEqual([texts(room), room.unread, room.head], [["m1", ""], 1, 4]);
    assert.equal(room.entries[1]?.kind === "message" && room.entries[1].deleted, true);
  });

  test("a message that was edited before it was replayed shows the new text", () => {
    let room = hear(lobby(), message(1, { text: "new", edited_at: 9 }));
    room = edited(room, { seq: 1, text: "new", edited_at: 9 }, 2);
    assert.deepEqual([texts(room), room.unread, room.head], [["new"], 1, 2]);
  });

  test("a replay without the text takes it from a message that is shown", () => {
    const room = hear(hear(lobby(), message(1)), message(1, { text: "", deleted: true }));
    assert.deepEqual(texts(room), [""]);
  });

  test("an answer and the push of the same message are one entry", () => {
    const own = message(1, { user: "ana", client_ref: "r-1" });
    assert.deepEqual(seqs(hear(answered(lobby(), own), own)), [1]);
    assert.deepEqual(seqs(answered(hear(lobby(), own), own)), [1]);
  });

  test("an edited message has its new text, also when an older page comes after it", () => {
    let room = edited(hear(lobby(), message(1)), { seq: 1, text: "better", edited_at: 50 }, 2);
    room = extended(room, page(9, [message(1)]));
    assert.deepEqual(texts(room), ["better"]);
    assert.equal(room.head, 2);
  });

  test("a state that is a little ahead of its position is not undone by the pushes that follow", () => {
    const state = [message(1, { text: "better", edited_at: 50 }), message(2, { text: "", deleted_at: 60 })];
    let room = hear(loaded(lobby(), page(0, state)), message(1), message(2));
    assert.deepEqual(texts(room), ["better", ""]);
    room = edited(room, { seq: 1, text: "better", edited_at: 50 }, 3);
    assert.deepEqual([texts(room), lastOwn(room)], [["better", ""], null]);
  });

  test("a deleted message keeps its place and nothing else, whatever comes late", () => {
    let room = deleted(hear(lobby(), message(1), message(2)), { seq: 1 }, 3);
    room = edited(room, { seq: 1, text: "late", edited_at: 70 }, 4);
    assert.deepEqual(texts(room), ["", "m2"]);
  });

  test("a room that is emptied knows still how far it was read", () => {
    const room = emptied(seen(hear(lobby(), message(1))));
    assert.deepEqual([room.entries, room.history, room.readSeq], [[], "none", 1]);
  });

  test("the last message of one's own is the one to edit", () => {
    let room = hear(lobby(), message(1, { user: "ana" }), message(2, { user: "ana" }), message(3));
    room = deleted(room, { seq: 2 }, 4);
    assert.equal(lastOwn(room)?.seq, 1);
  });
});

describe("unread", () => {
  test("are messages of others while the room is not visible", () => {
    const room = hear(lobby(), message(1), message(2, { user: "ana" }), message(3));
    assert.equal(room.unread, 2);
    assert.equal(said(lobby(), message(1), { watching: true }).unread, 0);
  });

  test("is not counted twice for a repeated push", () => {
    assert.equal(hear(lobby(), message(1), message(1)).unread, 1);
  });

  test("does not come from a history", () => {
    assert.equal(loaded(lobby(), page(9, [message(1), message(2)])).unread, 0);
  });

  test("is less by a message of a history that is deleted before it was read", () => {
    const room = loaded(summarised(lobby(), summary(3, 1, 2)), page(3, [message(1), message(2), message(3)]));
    assert.equal(deleted(room, { seq: 3 }, 4).unread, 1);
    assert.equal(deleted(room, { seq: 1 }, 4).unread, 2);
  });

  test("is counted for a room that was not opened, whose messages are not kept", () => {
    const room = said(said(lobby(), message(1), away), message(2), away);
    assert.deepEqual([room.unread, room.entries], [2, []]);
  });

  test("counts a message once that is in the history before its push comes", () => {
    const room = hear(loaded(summarised(lobby(), summary(1, 1, 0)), page(1, [message(1), message(2)])), message(2));
    assert.deepEqual([room.unread, readUpTo(room, "ana", 2).unread], [1, 0]);
    assert.equal(deleted(room, { seq: 2 }, 3).unread, 0);
  });

  test("is what the service says, and what was pushed after that", () => {
    const room = hear(summarised(lobby(), summary(10, 7, 2)), message(10), message(11));
    assert.deepEqual([room.unread, room.title], [3, "The lobby"]);
  });

  test("is the same when the push overtakes the service's word", () => {
    const room = summarised(hear(lobby(), message(10), message(11)), summary(10, 7, 2));
    assert.equal(room.unread, 3);
  });

  test("stays read when the service's word is older than the reading", () => {
    const read = seen(hear(lobby(), message(10), message(11)));
    assert.equal(summarised(read, summary(10, 7, 2)).unread, 0);
  });

  test("ends where another window of one's own has read it", () => {
    const room = hear(lobby(), message(1), message(2), message(3));
    assert.equal(readUpTo(room, "ana", 2).unread, 1);
    assert.equal(readUpTo(room, "ana", 3).unread, 0);
    assert.equal(readUpTo(seen(room), "ana", 1).readSeq, 3);
  });

  test("is less by a message that is deleted before it was read", () => {
    const room = hear(lobby(), message(1), message(2));
    assert.equal(deleted(deleted(room, { seq: 1 }, 3), { seq: 1 }, 4).unread, 1);
    assert.equal(deleted(seen(room), { seq: 1 }, 3).unread, 0);
  });

  test("does not count joins and leaves", () => {
    const room = joined(lobby(), { seq: 1, user: "bob" });
    assert.deepEqual([room.unread, room.readSeq], [0, 1]);
  });

  test("begins at a line that stays until one turns away having read it", () => {
    const room = hear(seen(hear(lobby(), message(1))), message(2), message(3));
    assert.equal(room.newSince, 1);
    assert.equal(turnedAway(room).newSince, 1);
    assert.equal(seen(room).newSince, 1);
    assert.equal(turnedAway(seen(room)).newSince, null);
  });
});

describe("people in a room", () => {
  test("are unknown without an answer", () => {
    let room = joined(lobby(), { seq: 1, user: "bob" });
    assert.equal(room.members, null);
    room = joined({ ...room, members: ["ana"] }, { seq: 2, user: "eve" });
    room = moved(room, { seq: 3, user: "ana" }, false);
    assert.deepEqual(room.members, ["eve"]);
  });

  test("one sees that the other has read one's last message, and only then", () => {
    const direct = hear(newRoom("dm:ana:bob", "ana"), message(4, { user: "ana" }));
    assert.equal(lastSeenByPartner(readUpTo(direct, "bob", 3)), null);
    assert.equal(lastSeenByPartner(readUpTo(direct, "bob", 4)), 4);
    assert.equal(lastSeenByPartner(readUpTo({ ...direct, partner: null }, "bob", 4)), null);
  });
});

describe("a hidden message", () => {
  test("has its place in the stream and none in the view", () => {
    const hidden = message(5, { text: "", deleted: true, hidden: true });
    let room = hear(newRoom("dm:ana:bob", "ana"), hidden);
    assert.deepEqual([room.entries, room.head, room.unread], [[], 5, 0]);
    room = loaded(room, page(9, [message(4), hidden]));
    assert.deepEqual(room.entries.map(({ seq }) => seq), [4]);
  });
});
