import assert from "node:assert/strict";
import { test } from "node:test";

import { Positions } from "../src/positions.js";

/** Gives `seqs` of one stream, one after the other, and says what came out. */
function arrive(positions: Positions<number>, ...seqs: number[]): number[] {
  return seqs.flatMap((seq) => positions.arrive("chat:lobby", seq, seq));
}

/** The same order in every run: the minimal standard generator. */
function shuffle(seqs: number[], round: number): number[] {
  let random = round + 1;
  const drawn = seqs.map((seq) => ({ seq, at: (random = (random * 48_271) % 2_147_483_647) }));
  return drawn.sort((a, b) => a.at - b.at).map(({ seq }) => seq);
}

const TWENTY = Array.from({ length: 20 }, (_, index) => index + 1);

test("any order of arrival, with repeats, comes out in order and once", () => {
  for (let round = 0; round < 200; round++) {
    const positions = new Positions<number>({ "chat:lobby": 0 });
    assert.deepEqual(arrive(positions, ...shuffle([...TWENTY, ...TWENTY], round)), TWENTY);
  }
});

test("whenever the position becomes known, a stream that opens comes out in order and once behind it", () => {
  for (let round = 0; round < 200; round++) {
    const positions = new Positions<number>();
    const [position, known] = [round % 20, round % 17];
    const seqs = shuffle([...TWENTY, ...TWENTY], round);
    positions.open("chat:lobby");
    const before = arrive(positions, ...seqs.slice(0, known));
    assert.deepEqual(before, [], "nothing leaves a stream that is opening");
    const out = [...positions.track("chat:lobby", position), ...arrive(positions, ...seqs.slice(known), ...TWENTY)];
    assert.deepEqual(out, TWENTY.slice(position));
  }
});

test("a push that is held already is held once", () => {
  const positions = new Positions<number>({ "chat:lobby": 5 });
  assert.deepEqual(arrive(positions, 8, 8), []);
  assert.deepEqual(arrive(positions, 6, 7), [6, 7, 8]);
  assert.equal(positions.hasHole("chat"), false);
});

test("giving up on holes hands out what was held", () => {
  const positions = new Positions<number>({ "chat:lobby": 5 });
  arrive(positions, 8, 12);
  assert.deepEqual(positions.skip("chat:lobby"), [8, 12]);
  assert.deepEqual(positions.toJSON(), { "chat:lobby": 12 });
  assert.equal(positions.hasHole("chat"), false);
});

test("held pushes are bounded; what is dropped stays a hole until it has come", () => {
  const positions = new Positions<number>({ "chat:lobby": 1 });
  for (let seq = 3; seq <= 1_500; seq++) arrive(positions, seq);
  assert.equal(arrive(positions, 2).length, 1_001);
  assert.deepEqual(positions.toJSON(), { "chat:lobby": 1_002 });
  assert.equal(positions.hasHole("chat"), true, "1,003 to 1,500 are known to be missing");
  for (let seq = 1_003; seq <= 1_500; seq++) arrive(positions, seq);
  assert.equal(positions.hasHole("chat"), false);
});

test("a stream that opens holds as much, and what is dropped is a hole as well", () => {
  const positions = new Positions<number>();
  positions.open("chat:lobby");
  for (let seq = 1; seq <= 1_001; seq++) arrive(positions, seq);
  assert.equal(positions.track("chat:lobby", 0).length, 1_000);
  assert.equal(positions.isBehind("chat:lobby"), true);
  assert.deepEqual(arrive(positions, 1_001), [1_001]);
  assert.equal(positions.isBehind("chat:lobby"), false);
});

test("an invalid position is dropped", () => {
  const kept = { "chat:lobby": "4", "chat:den": -1, "chat:attic": 1.5, "chat:yard": null, "order:ana": 0 };
  const positions = new Positions<number>(kept as never);
  for (const seq of [Number.NaN, "7", undefined]) positions.track("chat:lobby", seq as never);
  assert.deepEqual(positions.toJSON(), { "order:ana": 0 });
});

test("a resume that ends before what is known to be there leaves a hole", () => {
  const positions = new Positions<number>({ "chat:lobby": 4 });
  positions.reaches("chat:lobby", 9);
  assert.deepEqual(positions.resumed("chat:lobby", 4, 7), []);
  assert.equal(positions.hasHole("chat"), true);
  assert.deepEqual(arrive(positions, 8, 9), [8, 9]);
  assert.equal(positions.hasHole("chat"), false);
});
