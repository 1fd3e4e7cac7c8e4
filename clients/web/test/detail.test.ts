import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { DICTIONARIES } from "../src/i18n/language.ts";
import { textOf } from "../src/model/detail.ts";

const { en, zh } = DICTIONARIES;
const OUT_OF_STOCK = { reason: "out_of_stock", skus: ["anvil", "bolt"], text: "Out of stock: anvil, bolt" };

describe("the detail of an order", () => {
  test("of a known reason is in the language of the page, and names the items", () => {
    assert.equal(textOf(OUT_OF_STOCK, en.orders.reasons), "Out of stock: anvil, bolt");
    assert.equal(textOf(OUT_OF_STOCK, zh.orders.reasons), "缺货：anvil, bolt");
    assert.equal(textOf({ ...OUT_OF_STOCK, reason: "unknown_item" }, en.orders.reasons), "Not for sale: anvil, bolt");
  });

  test("of another reason is its own text", () => {
    for (const reason of ["too_heavy", "constructor", 7]) {
      assert.equal(textOf({ ...OUT_OF_STOCK, reason }, zh.orders.reasons), "Out of stock: anvil, bolt");
    }
    assert.equal(textOf({ ...OUT_OF_STOCK, skus: "anvil" }, zh.orders.reasons), "Out of stock: anvil, bolt");
  });

  test("without a text is shown as it is", () => {
    assert.equal(textOf("parcel 7", en.orders.reasons), "parcel 7");
    assert.equal(textOf({ by: "card", text: "" }, en.orders.reasons), '{"by":"card","text":""}');
    assert.equal(textOf([1], en.orders.reasons), "[1]");
    assert.equal(textOf(0, en.orders.reasons), "0");
  });

  test("that is not there is empty", () => {
    for (const none of [null, undefined, ""]) assert.equal(textOf(none, en.orders.reasons), "");
  });
});
