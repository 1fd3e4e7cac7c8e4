import assert from "node:assert/strict";
import { test } from "node:test";

import { endVisit, keepVisit, keptNames, readVisit } from "../src/state/visit.ts";

const NOW = 1_800_000_000_000;

/** A browser's storage, as far as it is used. */
function aStorage(): Storage {
  const kept = new Map<string, string>();
  const storage = {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => void kept.set(key, value),
    removeItem: (key: string) => void kept.delete(key),
    clear: () => kept.clear(),
  };
  return storage as unknown as Storage;
}

test("a visit outlives a reload, and its token as long as it is good", () => {
  const storage = aStorage();
  assert.equal(readVisit(storage, NOW), null);
  keepVisit(storage, { user: "ana", token: "t", until: NOW + 3_600_000 });
  assert.deepEqual(readVisit(storage, NOW), { user: "ana", token: "t" });
  assert.deepEqual(readVisit(storage, NOW + 3_590_000), { user: "ana", token: null });
});

test("signing out ends it", () => {
  const storage = aStorage();
  keepVisit(storage, { user: "ana", token: "t", until: NOW + 3_600_000 });
  endVisit(storage);
  assert.equal(readVisit(storage, NOW), null);
});

test("chosen names are kept for their user, until the visit ends", () => {
  const storage = aStorage();
  keptNames(storage, "watched", "ana").keep(["rope", "lamp"]);
  assert.deepEqual(keptNames(storage, "watched", "ana").names, ["rope", "lamp"]);
  assert.deepEqual(keptNames(storage, "watched", "ben").names, []);
  endVisit(storage);
  assert.deepEqual(keptNames(storage, "watched", "ana").names, []);
  storage.setItem("towpath.watched.ana", '["rope", 7');
  assert.deepEqual(keptNames(storage, "watched", "ana").names, []);
});

test("a browser that keeps nothing, or something else, has not been here", () => {
  assert.equal(readVisit(null, NOW), null);
  for (const text of ["", "{", "[]", "7", "null", '{"user":""}', '{"user":7,"token":"t","until":1}']) {
    const storage = aStorage();
    storage.setItem("towpath.visit", text);
    assert.equal(readVisit(storage, NOW), null, text);
  }
  const full = { ...aStorage(), setItem: () => assert.fail("full") } as unknown as Storage;
  keepVisit(full, { user: "ana", token: "t", until: NOW });
});
