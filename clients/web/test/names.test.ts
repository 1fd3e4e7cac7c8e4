import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { directRoom, inText, initials, isDirect, partner } from "../src/model/names.ts";

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

  test("a name in a sentence shows what is hidden in it, and reorders nothing beside it", () => {
    assert.equal(inText("ana"), "ana");
    assert.equal(inText("ad\u200bmin\u202e"), "ad⟨U+200B⟩min⟨U+202E⟩");
    assert.equal(inText("שלום"), "\u2068שלום\u2069");
  });

  test("names are sorted by code point, as the services sort them", () => {
    assert.equal(directRoom("\u{1f6f6}", "\uff5e"), "dm:\uff5e:\u{1f6f6}");
  });

  test("initials are letters, not halves of them", () => {
    assert.deepEqual(["ana", "Ana Maria Braun", "\u{1f6f6}", "a-b"].map(initials), ["A", "AM", "\u{1f6f6}", "AB"]);
  });
});
