import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { formatCents, isWhole, parseCents, totalOf } from "../src/model/money.ts";

describe("money", () => {
  test("is read as people type it and written with two decimals", () => {
    const typed = ["99.9", "99,90", " 12 ", "0.05", "9999999999999.99"];
    assert.deepEqual(
      typed.map((text) => formatCents(parseCents(text)!)),
      ["99.90", "99.90", "12.00", "0.05", "9999999999999.99"],
    );
  });

  test("is refused when it is no amount", () => {
    for (const text of ["", "abc", "-1", "1.234", "1e3", ".5", "1.", "1 000"]) assert.equal(parseCents(text), null);
  });

  test("adds up exactly", () => {
    const lines = [
      { sku: "rope", quantity: "3", unitPrice: "0.10" },
      { sku: "lamp", quantity: " 1 ", unitPrice: "7,15" },
    ];
    assert.equal(formatCents(totalOf(lines)!), "7.45");
  });

  test("has no total while a line is not whole", () => {
    const rope = { sku: "rope", quantity: "1", unitPrice: "2.00" };
    for (const wrong of [{ sku: " " }, { quantity: "0" }, { quantity: "1.5" }, { quantity: "" }, { unitPrice: "x" }]) {
      assert.equal(isWhole({ ...rope, ...wrong }), false);
      assert.equal(totalOf([rope, { ...rope, ...wrong }]), null);
    }
  });
});
