import assert from "node:assert/strict";
import { test } from "node:test";

import type { FindRooms, FoundRooms } from "@towpath/client";

import { Finder } from "../src/state/finder.ts";
import { eventually } from "./service.ts";

/** A service whose answers come when the test says so. */
class Slow {
  readonly asked: FindRooms[] = [];
  readonly finder = new Finder((data) => {
    this.asked.push(data);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  });
  #waiting: { resolve: (page: FoundRooms) => void; reject: (error: Error) => void }[] = [];

  /** Answers the request of that number with rooms of these names. */
  async answer(request: number, names: string[], cursor?: string): Promise<void> {
    const rooms = names.map((room) => ({ room, title: room, members: 1 }));
    this.#waiting[request]!.resolve({ rooms, ...(cursor && { cursor }) });
    await new Promise(setImmediate);
  }

  async fail(request: number): Promise<void> {
    this.#waiting[request]!.reject(new Error("unknown_action"));
    await new Promise(setImmediate);
  }

  get names(): string[] {
    return this.finder.rooms.value.map(({ room }) => room);
  }
}

test("an answer to what is not typed any more changes nothing", async () => {
  const slow = new Slow();
  slow.finder.look("");
  slow.finder.look("h");
  slow.finder.look("ha");
  await eventually(() => slow.asked.length === 2); // all but the last while typing
  assert.deepEqual(slow.asked, [{ limit: 20 }, { limit: 20, prefix: "ha" }]);
  await slow.answer(1, ["harbour"]);
  await slow.answer(0, ["lock"]);
  assert.deepEqual([slow.names, slow.finder.answered.value], [["harbour"], true]);
});

test("pages follow each other, and none comes twice", async () => {
  const slow = new Slow();
  slow.finder.look("");
  await slow.answer(0, ["a", "b"], "b");
  assert.equal(slow.finder.hasMore.value, true);
  const [first, again] = [slow.finder.more(), slow.finder.more()];
  assert.deepEqual(slow.asked.slice(1), Array(2).fill({ limit: 20, cursor: "b" }));
  await slow.answer(1, ["c"]);
  await slow.answer(2, ["c"]);
  await Promise.all([first, again]);
  assert.deepEqual([slow.names, slow.finder.hasMore.value], [["a", "b", "c"], false]);
});

test("there is no more of what is not typed any more", async () => {
  const slow = new Slow();
  slow.finder.look("");
  await slow.answer(0, ["a", "b"], "b");
  slow.finder.look("h");
  assert.equal(slow.finder.hasMore.value, false);
  await slow.finder.more();
  await eventually(() => slow.asked.length === 2);
  assert.deepEqual(slow.asked[1], { limit: 20, prefix: "h" });
});

test("without the action nothing is found, and nothing fails", async () => {
  const slow = new Slow();
  slow.finder.look("");
  await slow.fail(0);
  assert.deepEqual([slow.names, slow.finder.answered.value], [[], true]);
});
