import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";

import { mayDo } from "../src/model/rights.ts";
import { Notices } from "../src/state/notices.ts";
import { Stockroom } from "../src/state/stock.ts";
import { Service, eventually } from "./service.ts";

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
    service.push("inventory.updated", stock("rope", 9, 3), {});
    assert.equal(available(), 2);
    await room.unwatch("rope");
    assert.deepEqual([[...room.watched.value], "inventory:rope" in service.client.positions], [[], false]);
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
