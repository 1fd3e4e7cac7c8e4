import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { chooseGateways } from "../src/model/gateways.ts";

describe("gateways", () => {
  const known = ["ws://127.0.0.1:8080/ws", "ws://gw.example:8081/ws"] as const;

  test("the chosen one comes first, the others follow", () => {
    assert.deepEqual(chooseGateways(known, null, "page.example"), [...known]);
    assert.deepEqual(chooseGateways(known, "1", "page.example"), [known[1], known[0]]);
    assert.deepEqual(chooseGateways(known, "ws://page.example/ws", "page.example"), ["ws://page.example/ws", ...known]);
  });

  test("a link cannot send the token elsewhere", () => {
    for (const wanted of ["wss://evil.example/ws", "ws://127.0.0.1.evil.example/ws", "ws://a@evil.example/"]) {
      assert.throws(() => chooseGateways(known, wanted, "page.example"), { message: "foreign_gateway" });
    }
  });

  test("an invalid gateway is refused", () => {
    assert.throws(() => chooseGateways(known, "2", "page.example"), { message: "no_such_gateway" });
    for (const wanted of ["http://127.0.0.1/ws", "gateway"]) {
      assert.throws(() => chooseGateways(known, wanted, "page.example"), { message: "bad_gateway" });
    }
  });
});
