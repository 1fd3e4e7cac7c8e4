import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { type Outbox, draftsOf, failed, queued, settled } from "../src/model/outbox.ts";

const refs = (outbox: Outbox) => outbox.map(({ ref }) => ref);
const hello = (ref: string) => ({ ref, room: "lobby", text: "hello", at: 1_000 });
const two = queued(queued([], hello("r-1")), hello("r-2"));

describe("a message on its way", () => {
  test("ends with its message, by reference", () => {
    assert.deepEqual(refs(settled(two, "lobby", { ref: "r-2", text: "hello" })), ["r-1"]);
  });

  test("ends with the first message that says the same, where there is no reference", () => {
    assert.deepEqual(refs(settled(two, "lobby", { ref: null, text: "hello" })), ["r-2"]);
    assert.deepEqual(refs(settled(two, "lobby", { ref: null, text: "else" })), ["r-1", "r-2"]);
    assert.deepEqual(refs(settled(two, "other", { ref: null, text: "hello" })), ["r-1", "r-2"]);
  });

  test("says why it failed, keeps its place, and is tried again as the same", () => {
    const broken = failed(two, "r-1", { error: "not a member", uncertain: false });
    assert.deepEqual(broken[0], { ...hello("r-1"), problem: { error: "not a member", uncertain: false } });
    assert.deepEqual(queued(broken, broken[0]!), two);
  });

  test("a failure of what has arrived meanwhile changes nothing", () => {
    assert.deepEqual(failed(two, "r-9", { error: "late", uncertain: true }), two);
  });

  test("shows in its own room only", () => {
    const outbox = queued(two, { ...hello("r-3"), room: "dm:ana:bob" });
    assert.deepEqual(refs(draftsOf(outbox, "dm:ana:bob")), ["r-3"]);
  });
});
