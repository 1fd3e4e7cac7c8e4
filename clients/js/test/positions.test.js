import assert from "node:assert/strict";
import { test } from "node:test";

import { Positions } from "../src/positions.js";

/** Gives `seqs` of one stream, one after the other, and says what came out. */
function arrive(positions, ...seqs) {
  return seqs.flatMap((seq) => positions.arrive("chat:lobby", seq, seq).ready);
}

test("the first push of a stream sets its position", () => {
  const positions = new Positions();
  assert.deepEqual(arrive(positions, 41, 42), [41, 42]);
  assert.deepEqual(positions.toJSON(), { "chat:lobby": 42 });
});

test("what is there already is dropped", () => {
  const positions = new Positions({ "chat:lobby": 5 });
  assert.deepEqual(positions.arrive("chat:lobby", 5, "again"), { verdict: "duplicate", ready: [] });
  assert.deepEqual(arrive(positions, 3, 6, 6), [6]);
});

test("what comes after a hole is held until the hole is filled, then goes on in order", () => {
  const positions = new Positions({ "chat:lobby": 5 });
  assert.equal(positions.arrive("chat:lobby", 8, 8).verdict, "hole");
  assert.deepEqual(arrive(positions, 10, 9), []);
  assert.equal(positions.hasHole("chat"), true);
  assert.deepEqual(arrive(positions, 6, 7), [6, 7, 8, 9, 10]);
  assert.equal(positions.hasHole("chat"), false);
});

test("a push that is held already is a duplicate", () => {
  const positions = new Positions({ "chat:lobby": 5 });
  arrive(positions, 8);
  assert.equal(positions.arrive("chat:lobby", 8, 8).verdict, "duplicate");
});

test("holes of one stream hold back no other", () => {
  const positions = new Positions({ "chat:lobby": 5 });
  arrive(positions, 9);
  assert.deepEqual(positions.arrive("order:ana", 1, "order").ready, ["order"]);
  assert.equal(positions.hasHole("order"), false);
});

test("an answered resume moves the position and hands out what was held behind it", () => {
  const positions = new Positions({ "chat:lobby": 5 });
  arrive(positions, 8, 9);
  assert.deepEqual(positions.resumed("chat:lobby", 5, { seq: 7, complete: true }), { ready: [8, 9], complete: true });
  assert.deepEqual(positions.toJSON(), { "chat:lobby": 9 });
});

test("an incomplete resume withholds nothing that did come", () => {
  const positions = new Positions({ "chat:lobby": 5 });
  arrive(positions, 50, 51, 60);
  const { ready, complete } = positions.resumed("chat:lobby", 5, { seq: 51, complete: false });
  assert.deepEqual([ready, complete], [[50, 51], false]);
  assert.equal(positions.hasHole("chat"), true, "52 to 59 are still missing");
});

test("a late answer never moves a position back", () => {
  const positions = new Positions({ "chat:lobby": 5 });
  arrive(positions, 6, 7, 8);
  positions.resumed("chat:lobby", 5, { seq: 6, complete: true });
  assert.deepEqual(positions.toJSON(), { "chat:lobby": 8 });
});

test("a stream that was begun anew is followed from where it is, and said to be incomplete", () => {
  const positions = new Positions({ "chat:lobby": 500 });
  assert.equal(positions.resumed("chat:lobby", 500, { seq: 2, complete: true }).complete, false);
  assert.deepEqual(arrive(positions, 3), [3]);
});

test("giving up on holes hands out what was held", () => {
  const positions = new Positions({ "chat:lobby": 5 });
  arrive(positions, 8, 12);
  assert.deepEqual(positions.skip("chat:lobby"), [8, 12]);
  assert.deepEqual(positions.toJSON(), { "chat:lobby": 12 });
});

test("a tracked position begins a stream, and never jumps over what is on its way", () => {
  const positions = new Positions();
  positions.track("chat:lobby", 7);
  positions.track("chat:lobby", 9);
  assert.deepEqual(arrive(positions, 7, 8, 9), [8, 9]);
});

test("a forgotten stream is not resumed, and a late answer does not bring it back", () => {
  const positions = new Positions({ "chat:lobby": 5, "order:ana": 2 });
  positions.forget("chat:lobby");
  positions.resumed("chat:lobby", 5, { seq: 9, complete: true });
  assert.deepEqual(positions.toJSON(), { "order:ana": 2 });
  assert.deepEqual(positions.domains(), ["order"]);
});

test("a stream may be called anything", () => {
  const positions = new Positions({ ["__proto__"]: 1 });
  positions.arrive("chat:constructor", 1, "push");
  assert.deepEqual(Object.keys(positions.toJSON()), ["__proto__", "chat:constructor"]);
});

test("held pushes are bounded; the rest is left to the next resume", () => {
  const positions = new Positions({ "chat:lobby": 1 });
  for (let seq = 3; seq < 5_000; seq++) arrive(positions, seq);
  assert.equal(positions.skip("chat:lobby").length, 1_000);
});

test("any order of arrival, with repeats, comes out in order and once", () => {
  let random = 1;
  const next = () => (random = (random * 48271) % 2147483647); // minimal standard generator: the same run every time
  for (let round = 0; round < 200; round++) {
    const seqs = Array.from({ length: 20 }, (_, index) => index + 1);
    const shuffled = [...seqs, ...seqs].sort(() => (next() % 2 ? 1 : -1));
    assert.deepEqual(arrive(new Positions({ "chat:lobby": 0 }), ...shuffled), seqs);
  }
});
