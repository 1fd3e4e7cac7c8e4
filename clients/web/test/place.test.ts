import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { hashOf, parsePlace } from "../src/model/place.ts";

describe("the address", () => {
  test("keeps the view and the room, whatever its name", () => {
    for (const room of ["lobby", "dm:ana:bob", "a/b #c?", "船", "100%"]) {
      for (const view of ["chat", "orders"] as const) {
        assert.deepEqual(parsePlace(hashOf({ view, room })), { view, room });
      }
    }
    assert.equal(hashOf({ view: "chat", room: null }), "#/chat");
  });

  test("typed by hand is the list of rooms, not an error", () => {
    for (const hash of ["", "#", "#/", "#/nowhere/lobby", "#/chat/%E0%A4%A"]) {
      assert.deepEqual(parsePlace(hash), { view: "chat", room: null });
    }
  });
});
