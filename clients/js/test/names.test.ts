import { deepStrictEqual } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { shown } from "../src/names.js";

interface Vectors {
  vectors: { about: string; name: string; shown: string }[];
}

const file = new URL("../../../libs/protocol/vectors/names.json", import.meta.url);

for (const { about, name, shown: wanted } of (JSON.parse(readFileSync(file, "utf8")) as Vectors).vectors) {
  test(`people see ${about}`, () => {
    deepStrictEqual(shown(name), wanted);
  });
}
