import assert from "node:assert/strict";
import { test } from "node:test";

import { partsOf } from "../src/model/links.ts";

const links = (text: string) => partsOf(text).flatMap((part) => (typeof part === "string" ? [] : [part.href]));
const together = (text: string) =>
  partsOf(text)
    .map((part) => (typeof part === "string" ? part : part.href))
    .join("");

test("addresses in a text are found, and the sentence around them is not part of them", () => {
  assert.deepEqual(links("See https://a.example/x?y=1#z."), ["https://a.example/x?y=1#z"]);
  assert.deepEqual(links("(http://a.example/), https://b.example!"), ["http://a.example/", "https://b.example"]);
  assert.deepEqual(links("https://a.example/Lock_(water)"), ["https://a.example/Lock_(water)"]);
  assert.deepEqual(links("(https://a.example/Lock_(water))"), ["https://a.example/Lock_(water)"]);
  assert.deepEqual(links("见https://a.example/a。谢谢"), ["https://a.example/a"]);
  assert.deepEqual(links("HTTPS://A.EXAMPLE"), ["HTTPS://A.EXAMPLE"]);
  assert.deepEqual(links('<a href="https://a.example/">'), ["https://a.example/"]);
});

test("nothing else becomes an address", () => {
  for (const text of [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)//https",
    "data:text/html,<script>1</script>",
    "ftp://a.example",
    "www.a.example",
    "https://",
    "https://.",
    "http://[",
    "https://bank.example@a.example/",
    "https://u:p@a.example",
    "xhttps://a.example",
  ]) {
    assert.deepEqual(links(text), [], text);
  }
});

test("what cannot be seen, or reorders what is beside it, ends an address", () => {
  assert.deepEqual(links("https://a.example/\u202egpj.exe"), ["https://a.example/"]);
  assert.deepEqual(links("https://а.example/"), []); // a Cyrillic letter
});

test("the parts are the text, unchanged", () => {
  const pieces = ["https://a.example/", "http://", " ", ".", "(", ")", "<", '"', "🦢", "\n", "@", "://", "a"];
  for (let number = 0; number < 2_000; number++) {
    let [left, text] = [number, ""];
    for (let at = 0; at < 6; at++) {
      text += pieces[left % pieces.length];
      left = Math.floor(left / pieces.length) + number * 7;
    }
    assert.equal(together(text), text);
  }
});
