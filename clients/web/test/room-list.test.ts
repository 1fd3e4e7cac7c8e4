import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { listed, matching, neighbour, totalUnread } from "../src/model/room-list.ts";
import { type Room, newRoom } from "../src/model/room.ts";

const room = (name: string, more: Partial<Room> = {}): Room => ({ ...newRoom(name, "ana"), ...more });
const names = (rooms: readonly Room[]) => rooms.map(({ name }) => name);
const compare = (one: string, other: string) => one.localeCompare(other);

describe("a list of rooms", () => {
  test("has rooms and people apart, each in order, and no room that one is not in", () => {
    const all = [room("tow"), room("dm:ana:bob"), room("lock"), room("dm:ana:al"), room("x", { history: "stranger" })];
    const { rooms, directs } = listed(all, compare);
    assert.deepEqual([names(rooms), names(directs)], [["lock", "tow"], ["dm:ana:al", "dm:ana:bob"]]);
  });

  test("has what is new first, and does not move a room while it is read", () => {
    const news = [room("weir", { unread: 2 }), room("dm:ana:zoe", { unread: 1 })];
    const { rooms, directs } = listed([room("lock"), room("quay", { newSince: 4 }), ...news, room("dm:ana:al")], compare);
    assert.deepEqual([names(rooms), names(directs)], [["quay", "weir", "lock"], ["dm:ana:zoe", "dm:ana:al"]]);
  });

  test("adds up what is unread", () => {
    assert.equal(totalUnread([room("a", { unread: 2 }), room("b"), room("c", { unread: 3 })]), 5);
  });

  test("is searched by title and name, with all words, whatever their case", () => {
    const all = [room("crew", { title: "The Crew" }), room("lobby"), room("dm:ana:bob")];
    assert.deepEqual(names(matching(all, "the CRE")), ["crew"]);
    assert.deepEqual(names(matching(all, "bob")), ["dm:ana:bob"]);
    assert.deepEqual(names(matching(all, "  ")), names(all));
  });

  test("puts unread ones first, then those that begin with what is typed", () => {
    const all = [room("my lobby"), room("lobby"), room("low", { title: "slow lobby", unread: 1 })];
    assert.deepEqual(names(matching(all, "lo")), ["low", "lobby", "my lobby"]);
  });

  test("is stepped through around its ends", () => {
    const all = [room("a"), room("b"), room("c")];
    assert.deepEqual([neighbour(all, "c", 1)?.name, neighbour(all, "a", -1)?.name], ["a", "c"]);
    assert.deepEqual([neighbour(all, null, 1)?.name, neighbour(all, "gone", -1)?.name], ["a", "c"]);
    assert.equal(neighbour([], null, 1), null);
  });
});
