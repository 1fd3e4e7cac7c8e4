import assert from "node:assert/strict";
import { describe, test } from "node:test";

import type { Draft } from "../src/model/outbox.ts";
import type { Entry, Message } from "../src/model/room.ts";
import { type Row, rowsOf } from "../src/model/rows.ts";

const MINUTE = 60_000;
const NOON = new Date(2026, 2, 5, 12).getTime();

const message = (seq: number, more: Partial<Message> = {}): Message => ({
  kind: "message",
  seq,
  user: "bob",
  text: `m${seq}`,
  sentAt: NOON,
  editedAt: null,
  deleted: false,
  ref: null,
  ...more,
});
const rows = (entries: Entry[], drafts: Draft[] = [], newSince: number | null = null) =>
  rowsOf(entries, drafts, { me: "ana", newSince });
const shape = (all: Row[]) =>
  all.map((row) => ("together" in row && row.together ? `${row.kind} together` : row.kind));
const draft: Draft = { ref: "r-1", room: "lobby", text: "hello", at: NOON + MINUTE, problem: null };

describe("a conversation", () => {
  test("names each day once", () => {
    const next = message(2, { sentAt: NOON + 24 * 60 * MINUTE });
    assert.deepEqual(shape(rows([message(1), next])), ["day", "message", "day", "message"]);
  });

  test("puts together what one person says within minutes", () => {
    const entries = [
      message(1),
      message(2, { sentAt: NOON + MINUTE }),
      message(3, { sentAt: NOON + 10 * MINUTE }),
      message(4, { sentAt: NOON + 10 * MINUTE, user: "eve" }),
    ];
    assert.deepEqual(shape(rows(entries)), ["day", "message", "message together", "message", "message"]);
  });

  test("draws a line above the first message of others that is new", () => {
    const entries = [message(1), message(2, { user: "ana" }), message(3)];
    assert.deepEqual(shape(rows(entries, [], 1)), ["day", "message", "message", "new", "message"]);
  });

  test("draws no line where nothing is new", () => {
    assert.equal(shape(rows([message(1)], [], 1)).includes("new"), false);
    assert.equal(shape(rows([message(1)], [], null)).includes("new"), false);
  });

  test("a note separates a group of messages", () => {
    const entries: Entry[] = [message(1), { kind: "joined", seq: 2, user: "eve" }, message(3)];
    assert.deepEqual(shape(rows(entries)), ["day", "message", "note", "message"]);
  });

  test("a draft and the message it becomes have one key", () => {
    const sent = message(1, { user: "ana", ref: "r-1" });
    assert.equal(rows([], [draft]).at(-1)!.key, rows([sent]).at(-1)!.key);
  });

  test("a draft is where its message will be: on its day, with earlier ones of the user", () => {
    const own = message(1, { user: "ana" });
    assert.deepEqual(shape(rows([own], [draft])), ["day", "message", "draft together"]);
    assert.deepEqual(shape(rows([], [draft, { ...draft, ref: "r-2" }])), ["day", "draft", "draft together"]);
  });

  test("another user's reference is not a key of one's own", () => {
    const keys = rows([message(1, { ref: "r-1" })], [draft]).map(({ key }) => key);
    assert.equal(new Set(keys).size, keys.length);
  });
});
