import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { decimalsIn, decimalsOf, formatMoney, isTooMuch, isWhole, mostOf, parseMoney, totalOf } from "../src/model/money.ts";

describe("money", () => {
  test("is read as people type it and written with the decimals of its currency", () => {
    const typed = ["99.9", "99,90", " 12 ", "0.05", "9999999999999.99"];
    assert.deepEqual(
      typed.map((text) => formatMoney(parseMoney(text, 2)!, 2)),
      ["99.90", "99.90", "12.00", "0.05", "9999999999999.99"],
    );
    assert.equal(formatMoney(parseMoney("500", 0)!, 0), "500");
    assert.equal(formatMoney(parseMoney("0", 0)!, 0), "0");
    assert.equal(formatMoney(parseMoney("1.2", 3)!, 3), "1.200");
    assert.equal(formatMoney(parseMoney("0,004", 3)!, 3), "0.004");
  });

  test("is refused when it is not an amount, or has more decimals than its currency", () => {
    for (const text of ["", "abc", "-1", "1.234", "1e3", ".5", "1.", "1 000"]) assert.equal(parseMoney(text, 2), null);
    assert.equal(parseMoney("99.90", 0), null);
    assert.equal(parseMoney("1.2345", 3), null);
  });

  test("is at most what the contract takes", () => {
    assert.deepEqual([0, 2, 3].map((decimals) => formatMoney(mostOf(decimals), decimals)), [
      "9999999999999",
      "9999999999999.99",
      "9999999999999.990",
    ]);
    const texts = ["9999999999999.99", "0009999999999999.99", "12", "x", "99999999999999x", "99999999999999.999"];
    for (const text of texts) assert.equal(isTooMuch(text, 2), false, text);
    for (const text of ["10000000000000", "99999999999999,99", "1".repeat(90)]) assert.equal(isTooMuch(text, 2), true);
    assert.deepEqual([isTooMuch("9999999999999.99", 3), isTooMuch("9999999999999.991", 3)], [false, true]);
    assert.deepEqual([isTooMuch("9999999999999", 0), isTooMuch("10000000000000", 0)], [false, true]);
  });

  test("has the decimals of ISO 4217", () => {
    assert.deepEqual(["EUR", "JPY", "KWD", "CLF"].map(decimalsOf), [2, 0, 3, 4]);
    assert.deepEqual(["99.90", "500", "1.234"].map(decimalsIn), [2, 0, 3]);
  });

  test("adds up exactly", () => {
    const lines = [
      { sku: "rope", quantity: "3", unitPrice: "0.10" },
      { sku: "lamp", quantity: " 1 ", unitPrice: "7,15" },
    ];
    assert.equal(formatMoney(totalOf(lines, 2)!, 2), "7.45");
    assert.equal(totalOf(lines, 0), null);
  });

  test("has no total while a line is not whole", () => {
    const rope = { sku: "rope", quantity: "1", unitPrice: "2.00" };
    for (const wrong of [{ sku: " " }, { quantity: "0" }, { quantity: "1.5" }, { quantity: "" }, { unitPrice: "x" }]) {
      assert.equal(isWhole({ ...rope, ...wrong }, 2), false);
      assert.equal(totalOf([rope, { ...rope, ...wrong }], 2), null);
    }
  });
});
