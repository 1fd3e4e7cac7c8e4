import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { directRoom, initials, isDirect, partner } from "../src/model/names.ts";

describe("names", () => {
  test("two people share one room, the same for both", () => {
    assert.equal(directRoom("bob", "ana"), "dm:ana:bob");
    assert.equal(directRoom("ana", "bob"), "dm:ana:bob");
    assert.equal(partner("dm:ana:bob", "ana"), "bob");
    assert.equal(partner("dm:ana:bob", "bob"), "ana");
    assert.equal(isDirect("dm:ana:bob") && !isDirect("lobby"), true);
  });

  test("colons and percent signs in names do not mix rooms up", () => {
    assert.equal(directRoom("a:b", "c"), "dm:a%3Ab:c");
    assert.equal(partner(directRoom("100%", "a:b"), "100%"), "a:b");
    assert.equal(partner(directRoom("%3A", "x"), "x"), "%3A");
  });

  test("names are sorted by code point, as the services sort them", () => {
    assert.equal(directRoom("\u{1f6f6}", "\uff5e"), "dm:\uff5e:\u{1f6f6}");
  });

  test("initials are letters, not halves of them", () => {
    assert.deepEqual(["ana", "Ana Maria Braun", "\u{1f6f6}", "a-b"].map(initials), ["A", "AM", "\u{1f6f6}", "AB"]);
  });
});
