import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { OrderBook, type OrderData, isCancellable, withoutRepeats } from "../src/model/order-book.ts";

const order = (order_id: string, revision = 1, more: Partial<OrderData> = {}): OrderData => ({
  order_id,
  revision,
  status: "submitted",
  ...more,
});
const ids = (book: OrderBook) => book.orders.map(({ order_id }) => order_id);
const way = (book: OrderBook) => book.orders[0]!.timeline.map(({ status, at }) => [status, at]);

describe("a list of orders", () => {
  test("the highest revision wins, for any late ones", () => {
    const book = new OrderBook()
      .take(order("O1", 3, { status: "paid", detail: "by card" }))
      .take(order("O1", 2, { status: "confirmed", detail: "in stock" }));
    assert.deepEqual([book.orders[0]!.status, book.orders[0]!.detail], ["paid", "by card"]);
  });

  test("a new order goes to the top, a known one stays where it is", () => {
    const book = new OrderBook()
      .list([order("O2"), order("O1")])
      .take(order("O3"))
      .take(order("O1", 2));
    assert.deepEqual(ids(book), ["O3", "O2", "O1"]);
  });

  test("older pages go below, and a list that is loaded again replaces all of it", () => {
    const book = new OrderBook().list([order("O4"), order("O3")]).extend([order("O2"), order("O1")]).take(order("O5"));
    assert.deepEqual(ids(book), ["O5", "O4", "O3", "O2", "O1"]);
    assert.deepEqual(ids(book.list([order("O6"), order("O5")])), ["O6", "O5"]);
  });

  test("an order that is on two pages is listed once", () => {
    const book = new OrderBook().list([order("O2"), order("O1")]).extend([order("O1", 2), order("O0")]);
    assert.deepEqual([ids(book), book.orders[1]!.revision], [["O2", "O1", "O0"], 2]);
  });

  test("a list that is behind an answer does not take it back", () => {
    const book = new OrderBook().take(order("O1", 2, { status: "cancelled" })).list([order("O1", 1)]);
    assert.equal(book.orders[0]!.status, "cancelled");
  });

  test("an answer that says less keeps what was known", () => {
    const book = new OrderBook()
      .take(order("O1", 1, { amount: "9.90", currency: "EUR" }))
      .take(order("O1", 2, { status: "cancelled" }));
    assert.deepEqual([book.orders[0]!.amount, book.orders[0]!.status], ["9.90", "cancelled"]);
  });

  test("the detail of an earlier state is not shown with a later one", () => {
    const book = new OrderBook()
      .take(order("O1", 1, { detail: "gift" }))
      .take(order("O1", 2, { status: "paid", updated_at: 20 }));
    assert.equal(book.orders[0]!.detail, undefined);
  });

  test("only what has not left can be cancelled", () => {
    assert.equal(isCancellable({ status: "packed" }), true);
    assert.equal(isCancellable({ status: "shipped" }), false);
  });
});

describe("the way of an order", () => {
  test("has every state that was heard of, in order, each once", () => {
    const book = new OrderBook()
      .take(order("O1", 1, { updated_at: 10 }))
      .take(order("O1", 3, { status: "packed", updated_at: 30 }))
      .take(order("O1", 2, { status: "paid", updated_at: 20 }))
      .take(order("O1", 3, { status: "packed", updated_at: 30 }));
    assert.deepEqual(way(book), [["submitted", 10], ["paid", 20], ["packed", 30]]);
  });

  test("an answer without a time takes it from the push", () => {
    const book = new OrderBook().take(order("O1")).take(order("O1", 1, { updated_at: 10 }));
    assert.deepEqual(way(book), [["submitted", 10]]);
    assert.deepEqual(way(book.take(order("O1"))), [["submitted", 10]]);
  });

  test("begins, in a list, when the order was created, until its first state is known", () => {
    const listed = order("O1", 3, { status: "paid", created_at: 5, updated_at: 30 });
    const book = new OrderBook().list([listed]);
    assert.deepEqual(way(book), [[null, 5], ["paid", 30]]);
    assert.deepEqual(way(book.take(order("O1", 1, { updated_at: 5 }))), [["submitted", 5], ["paid", 30]]);
  });

  test("has what was recalled, before and after it is listed, and the list stays as it is", () => {
    const before = new OrderBook().recall(order("O1", 1, { updated_at: 10 }));
    assert.deepEqual(ids(before), []);
    const book = before
      .list([order("O1", 3, { status: "packed", updated_at: 30 })])
      .recall(order("O1", 2, { status: "paid", updated_at: 20 }));
    assert.deepEqual(way(book), [["submitted", 10], ["paid", 20], ["packed", 30]]);
    assert.equal(book.orders[0]!.status, "packed");
  });

  test("shows each refund, and not the moment at which the amount became known", () => {
    const book = new OrderBook()
      .take(order("O1", 1, { status: "paid", updated_at: 10 }))
      .take(order("O1", 2, { status: "paid", updated_at: 20, amount: "9.90", currency: "EUR" }))
      .take(order("O1", 3, { status: "refunded", updated_at: 30, refunded: "1.00" }))
      .take(order("O1", 4, { status: "refunded", updated_at: 40, refunded: "2.00" }));
    const shown = withoutRepeats(book.orders[0]!.timeline);
    assert.deepEqual(shown.map(({ at, refunded }) => [at, refunded]), [[10, undefined], [30, "1.00"], [40, "2.00"]]);
    assert.deepEqual([book.orders[0]!.amount, book.orders[0]!.refunded], ["9.90", "2.00"]);
  });

  test("of an order that was born elsewhere begins in the state it came with", () => {
    const born = order("O1", 4, { status: "shipped", created_at: 5, updated_at: 5 });
    assert.deepEqual(way(new OrderBook().list([born])), [["shipped", 5]]);
  });
});
