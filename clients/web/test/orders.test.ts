import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";

import { Notices } from "../src/state/notices.ts";
import { Orders } from "../src/state/orders.ts";
import { Refusal, Service, eventually, handedOut } from "./service.ts";

type Answers = ConstructorParameters<typeof Service>[0];

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

const order = (revision: number, status: string, more: object = {}) => ({
  order_id: "O1",
  revision,
  status,
  amount: "9.90",
  currency: "EUR",
  updated_at: revision * 10,
  ...more,
});

async function ordersOf(answers: Answers) {
  const service = new Service({
    "order.resume": () => ({ streams: { "order:ana": { seq: 0, complete: true } } }),
    ...answers,
  });
  const notices = new Notices();
  ends.push(() => {
    service.client.close();
    for (const { id } of notices.shown.value) notices.dismiss(id);
  });
  const orders = new Orders(service.client, "ana", notices);
  await eventually(() => service.of("order.list").length > 0);
  const way = () => orders.book.value.orders[0]?.timeline.map(({ status }) => status);
  return { service, orders, notices, way };
}

describe("orders", () => {
  test("are resumed from the beginning of their stream, which has all of their states", async () => {
    const { service, orders, way } = await ordersOf({
      "order.list": () => ({ orders: [order(3, "packed", { created_at: 10 })], seq: 3 }),
    });
    assert.deepEqual(service.of("order.resume")[0]!.data, { positions: { "order:ana": 0 } });
    for (const [at, status] of ["submitted", "paid", "packed"].entries()) {
      service.push("order.updated", order(at + 1, status), { stream: "order:ana", seq: at + 1 });
    }
    await eventually(() => way()?.length === 3);
    assert.deepEqual(way(), ["submitted", "paid", "packed"]);
    const announced = () => orders.moved.value?.status;
    assert.equal(announced(), undefined, "earlier states are not news");
    service.push("order.updated", order(4, "shipped"), { stream: "order:ana", seq: 4 });
    await handedOut();
    assert.deepEqual([announced(), way()?.at(-1)], ["shipped", "shipped"]);
  });

  test("are listed again when changes of them were missed", async () => {
    let [seq, complete] = [0, true];
    const { service, orders } = await ordersOf({
      "order.list": () => ({ orders: seq === 0 ? [] : [order(7, "shipped")], seq }),
      "order.resume": () => ({ streams: { "order:ana": { seq, complete } } }),
    });
    [seq, complete] = [70, false];
    service.push("order.updated", order(5, "paid"), { stream: "order:ana", seq: 60 }); // a hole
    await eventually(() => orders.book.value.orders[0]?.status === "shipped");
  });

  test("are accepted before they are submitted, where the service takes its time", async () => {
    const { service, orders, way } = await ordersOf({
      "order.list": () => ({ orders: [], seq: 0 }),
      "order.submit": () => null,
    });
    let accepted = 0;
    const submitted = orders.submit({ amount: "9.90", currency: "EUR" }, () => (accepted += 1));
    await eventually(() => service.of("order.submit").length === 1);
    const [request] = service.of("order.submit");
    service.push("accepted", {}, { correlation_id: request!.msg_id });
    await eventually(() => accepted === 1);
    service.answer(request!, order(1, "submitted"));
    assert.equal(await submitted, "O1");
    assert.deepEqual(way(), ["submitted"]);
  });

  test("go on from where the list ended", async () => {
    const { service, orders } = await ordersOf({
      "order.list": ({ cursor }) =>
        cursor === undefined
          ? { orders: [order(1, "paid")], seq: 2, cursor: "1~O1" }
          : { orders: [{ ...order(1, "paid"), order_id: "O0" }], seq: 2 },
    });
    await eventually(() => orders.hasOlder.value);
    await orders.loadOlder();
    assert.equal(service.of("order.list").at(-1)!.data["cursor"], "1~O1");
    assert.deepEqual(orders.book.value.orders.map(({ order_id }) => order_id), ["O1", "O0"]);
    assert.equal(orders.hasOlder.value, false);
  });

  test("that cannot be listed say why", async () => {
    const { notices } = await ordersOf({ "order.list": () => new Refusal("unavailable", true) });
    await eventually(() => notices.shown.value.length === 1);
  });
});
