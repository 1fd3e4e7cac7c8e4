import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { LASTS_MS, nextEnd, remaining, started, stopped } from "../src/model/typing.ts";

describe("typing", () => {
  test("ends by itself", () => {
    const typing = started(started(new Map(), "bob", 1_000), "eve", 3_000);
    assert.equal(nextEnd(typing, 3_000), LASTS_MS - 2_000);
    assert.deepEqual([...remaining(typing, 1_000 + LASTS_MS).keys()], ["eve"]);
    assert.equal(remaining(typing, 3_000 + LASTS_MS).size, 0);
  });

  test("goes on with every word of it", () => {
    const typing = started(started(new Map(), "bob", 0), "bob", 4_000);
    assert.deepEqual([...remaining(typing, LASTS_MS).keys()], ["bob"]);
  });

  test("ends with the user's own message, and not with another's", () => {
    const typing = started(started(new Map(), "bob", 0), "eve", 0);
    assert.deepEqual([...stopped(typing, "bob").keys()], ["eve"]);
  });

  test("has no end when no user types", () => {
    assert.equal(nextEnd(new Map(), 0), null);
  });
});
