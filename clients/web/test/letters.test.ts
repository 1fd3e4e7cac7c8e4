import assert from "node:assert/strict";
import { test } from "node:test";

import { excess, lettersIn } from "../src/model/letters.ts";

test("a letter is counted once, in any script", () => {
  assert.equal(lettersIn(""), 0);
  assert.equal(lettersIn("naïve"), 5);
  assert.equal(lettersIn("船".repeat(4_000)), 4_000);
  assert.equal(lettersIn("🦢".repeat(4_000)), 4_000);
  for (const odd of ["\ud83e", "a\ud83e", "\udda2a", "\ud83e\ud83e\udda2", "\udda2\ud83e"]) {
    assert.equal(lettersIn(odd), [...odd].length, JSON.stringify(odd));
  }
});

test("a text that is too long has so many letters too many, without the spaces around it", () => {
  assert.equal(excess("x".repeat(4_000), 4_000), 0);
  assert.equal(excess("x".repeat(4_500), 4_000), 500);
  assert.equal(excess("🦢".repeat(4_000), 4_000), 0);
  assert.equal(excess("🦢".repeat(4_001), 4_000), 1);
  assert.equal(excess(`${" ".repeat(900)}${"x".repeat(3_999)}\n\n`, 4_000), 0);
});
