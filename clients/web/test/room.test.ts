import assert from "node:assert/strict";
import { describe, test } from "node:test";

import type { Message as MessageData } from "@towpath/client";

import {
  type Room,
  answered,
  deleted,
  edited,
  emptied,
  firstMessage,
  lastOwn,
  lastSeenByPartner,
  newRoom,
  noted,
  paged,
  readUpTo,
  said,
  seen,
  summarised,
  turnedAway,
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
const hear = (room: Room, ...messages: MessageData[]) => messages.reduce((so, data) => said(so, data, away), room);
const seqs = (room: Room) => room.entries.map(({ seq }) => seq);
const texts = (room: Room) => room.entries.map((entry) => (entry.kind === "message" ? entry.text : entry.kind));

describe("messages", () => {
  test("are in order and once, from any source", () => {
    let room = hear(lobby(), message(9));
    room = noted(room, "joined", { seq: 8, user: "eve" });
    room = hear(room, message(9));
    room = paged(room, { room: "lobby", messages: [message(3), message(5), message(9)], has_more: true, seq: 9 });
    assert.deepEqual(seqs(room), [3, 5, 8, 9]);
    assert.deepEqual([firstMessage(room)?.seq, room.hasEarlier, room.history], [3, true, "loaded"]);
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
    room = paged(room, { room: "lobby", messages: [message(1)], has_more: false, seq: 9 });
    assert.deepEqual(texts(room), ["better"]);
    assert.equal(room.head, 2);
  });

  test("a page contains missed edits and deletions", () => {
    const known = hear(lobby(), message(1), message(2));
    const room = paged(known, {
      room: "lobby",
      messages: [message(1, { text: "better", edited_at: 50 }), message(2, { text: "", deleted_at: 60 })],
      has_more: false,
      seq: 9,
    });
    assert.deepEqual(texts(room), ["better", ""]);
    assert.equal(lastOwn(room), null);
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

  test("does not come from pages of history", () => {
    const room = paged(lobby(), { room: "lobby", messages: [message(1), message(2)], has_more: false, seq: 9 });
    assert.equal(room.unread, 0);
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
    const room = noted(lobby(), "joined", { seq: 1, user: "bob" });
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
    let room = noted(lobby(), "joined", { seq: 1, user: "bob" });
    assert.equal(room.members, null);
    room = noted({ ...room, members: ["ana"] }, "joined", { seq: 2, user: "eve" });
    room = noted(room, "left", { seq: 3, user: "ana" });
    assert.deepEqual(room.members, ["eve"]);
  });

  test("one sees that the other has read one's last message, and only then", () => {
    const direct = said(newRoom("dm:ana:bob", "ana"), message(4, { user: "ana" }), away);
    assert.equal(lastSeenByPartner(readUpTo(direct, "bob", 3)), null);
    assert.equal(lastSeenByPartner(readUpTo(direct, "bob", 4)), 4);
    assert.equal(lastSeenByPartner(readUpTo({ ...direct, partner: null }, "bob", 4)), null);
  });
});

describe("a hidden message", () => {
  test("has its place in the stream and none in the view", () => {
    const hidden = message(5, { text: "", deleted: true, hidden: true });
    let room = said(newRoom("dm:ana:bob", "ana"), hidden, away);
    assert.deepEqual([room.entries, room.head, room.unread], [[], 5, 0]);
    room = paged(room, { room: "dm:ana:bob", messages: [message(4), hidden], has_more: false, seq: 9 });
    assert.deepEqual(room.entries.map(({ seq }) => seq), [4]);
  });
});
