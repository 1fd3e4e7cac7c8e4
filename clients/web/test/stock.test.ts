import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";

import { mayDo } from "../src/model/rights.ts";
import { Notices } from "../src/state/notices.ts";
import { Stockroom } from "../src/state/stock.ts";
import { Refusal, Service, eventually, handedOut } from "./service.ts";

const stock = (sku: string, available: number, revision = 1) => ({
  sku,
  on_hand: available + 1,
  reserved: 1,
  available,
  revision,
});
const ends: (() => void)[] = [];
afterEach(() => ends.splice(0).forEach((end) => end()));

function connected(answers: ConstructorParameters<typeof Service>[0]) {
  const service = new Service(answers);
  const notices = new Notices();
  ends.push(() => service.client.close());
  return { service, notices, room: new Stockroom(service.client, true, notices) };
}

describe("stock", () => {
  test("of a watched item follows what is pushed, and never an older state", async () => {
    const { service, room } = connected({
      "inventory.list": () => ({ items: [stock("rope", 5)] }),
      "inventory.watch": ({ sku }) => ({ ...stock(sku, 4, 2), seq: 7 }),
      "inventory.unwatch": ({ sku }) => ({ sku }),
    });
    await eventually(() => room.isThere.value);
    await room.watch("rope");
    const available = () => room.items.value.get("rope")!.available;
    assert.equal(available(), 4);
    service.push("inventory.updated", stock("rope", 2, 4), { stream: "inventory:rope", seq: 8 });
    await handedOut();
    assert.equal(available(), 2);
    await room.unwatch("rope");
    assert.deepEqual([[...room.watched.value], "inventory:rope" in service.client.positions], [[], false]);
  });

  test("that is watched in another window is watched here, until one leaves it", async () => {
    const { service, room } = connected({
      "inventory.list": () => ({ items: [] }),
      "inventory.watch": ({ sku }) => ({ ...stock(sku, 4, 7), seq: 7 }),
      "inventory.resume": () => ({ streams: { "inventory:rope": { seq: 7, complete: true } } }),
      "inventory.unwatch": ({ sku }) => ({ sku }),
    });
    await eventually(() => room.isThere.value);
    service.push("inventory.updated", stock("rope", 5, 6), { stream: "inventory:rope", seq: 6 });
    await eventually(() => room.watched.value.has("rope") && room.items.value.get("rope")?.available === 4);
    await room.unwatch("rope");
    service.push("inventory.updated", stock("rope", 3, 8), { stream: "inventory:rope", seq: 8 }); // was on its way
    await handedOut();
    assert.deepEqual([[...room.watched.value], service.of("inventory.watch").length], [[], 1]);
  });

  test("is loaded again when changes of it were missed", async () => {
    let [revision, complete] = [2, true];
    const { service, room } = connected({
      "inventory.list": () => ({ items: [] }),
      "inventory.watch": ({ sku }) => ({ ...stock(sku, 4, revision), seq: revision }),
      "inventory.resume": () => ({ streams: { "inventory:rope": { seq: revision, complete } } }),
    });
    await eventually(() => room.isThere.value);
    await room.watch("rope");
    [revision, complete] = [50, false];
    service.push("inventory.updated", stock("rope", 3, 40), { stream: "inventory:rope", seq: 40 }); // a hole
    await eventually(() => room.items.value.get("rope")?.revision === 50);
  });

  test("of an item that is not there is not watched, and the person who asked hears why", async () => {
    const { service, room } = connected({
      "inventory.list": () => ({ items: [] }),
      "inventory.watch": () => new Refusal("not_found"),
    });
    await eventually(() => room.isThere.value);
    await assert.rejects(room.watch("oar"), { code: "not_found" });
    assert.deepEqual([...room.watched.value], []);
    await assert.rejects(room.watch("oar"), { code: "not_found" });
    assert.equal(service.of("inventory.watch").length, 2);
  });

  test("is set, and known at once", async () => {
    const { service, room } = connected({
      "inventory.list": () => ({ items: [] }),
      "inventory.set": ({ sku, on_hand }) => ({ ...stock(sku, on_hand - 1, 3), seq: 3 }),
    });
    await eventually(() => room.isThere.value);
    await room.set("lamp", 8);
    assert.deepEqual(service.of("inventory.set")[0]!.data, { sku: "lamp", on_hand: 8 });
    assert.equal(room.items.value.get("lamp")!.on_hand, 8);
  });

  test("that no service has is not shown, and no one hears of it", async () => {
    const { service, notices, room } = connected({});
    await eventually(() => service.of("inventory.list").length === 1);
    await new Promise(setImmediate);
    assert.deepEqual([room.isThere.value, notices.shown.value], [false, []]);
  });
});

test("a right is a word of the token's scope", () => {
  const token = (claims: object) => `x.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.y`;
  assert.equal(mayDo(token({ sub: "ä?~", scope: "chat inventory:write" }), "inventory:write"), true);
  for (const claims of [{}, { scope: "inventory" }, { scope: ["inventory:write"] }, { scope: "inventory:writers" }]) {
    assert.equal(mayDo(token(claims), "inventory:write"), false);
  }
  for (const text of ["", "x", "x.y.z", "x.!.z"]) assert.equal(mayDo(text, "inventory:write"), false);
});
