import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { chooseGateways } from "../model/gateways.js";
import { formatCents, parseCents, totalOf } from "../model/money.js";
import { directRoom, initials, isDirect, partner } from "../model/names.js";
import { OrderBook } from "../model/order-book.js";
import { Room } from "../model/room.js";

describe("names", () => {
  test("two people share one room, whoever asks", () => {
    assert.equal(directRoom("bob", "ana"), "dm:ana:bob");
    assert.equal(directRoom("ana", "bob"), "dm:ana:bob");
    assert.equal(partner("dm:ana:bob", "ana"), "bob");
    assert.equal(partner("dm:ana:bob", "bob"), "ana");
    assert.equal(isDirect("dm:ana:bob") && !isDirect("lobby"), true);
  });

  test("colons and percent signs in names do not mix rooms up", () => {
    assert.equal(directRoom("a:b", "c"), "dm:a%3Ab:c");
    assert.equal(partner(directRoom("100%", "a:b"), "100%"), "a:b");
    assert.equal(partner(directRoom("%3A", "x"), "x"), "%3A");
  });

  test("names are sorted by code point, as the services sort them", () => {
    assert.equal(directRoom("\u{1f6f6}", "\uff5e"), "dm:\uff5e:\u{1f6f6}");
  });

  test("initials are letters, not halves of them", () => {
    assert.deepEqual(["ana", "Ana Maria Braun", "\u{1f6f6}", "a-b"].map(initials), ["A", "AM", "\u{1f6f6}", "AB"]);
  });
});

describe("money", () => {
  test("is read as people type it and written with two decimals", () => {
    const typed = ["99.9", "99,90", " 12 ", "0.05", "9999999999999.99"];
    assert.deepEqual(
      typed.map((text) => formatCents(parseCents(text))),
      ["99.90", "99.90", "12.00", "0.05", "9999999999999.99"],
    );
  });

  test("is refused when it is no amount", () => {
    for (const text of ["", "abc", "-1", "1.234", "1e3", ".5", "1.", "1 000"]) assert.equal(parseCents(text), null);
  });

  test("adds up exactly", () => {
    assert.equal(
      formatCents(
        totalOf([
          { quantity: 3, unit_price: "0.10" },
          { quantity: 1, unit_price: "7,15" },
        ]),
      ),
      "7.45",
    );
  });
});

describe("gateways", () => {
  const known = ["ws://127.0.0.1:8080/ws", "ws://gw.example:8081/ws"];

  test("the chosen one comes first, the others follow", () => {
    assert.deepEqual(chooseGateways(known, null, "page.example"), known);
    assert.deepEqual(chooseGateways(known, "1", "page.example"), [known[1], known[0]]);
    assert.deepEqual(chooseGateways(known, "ws://page.example/ws", "page.example"), ["ws://page.example/ws", ...known]);
  });

  test("a link cannot send the token elsewhere", () => {
    for (const wanted of ["wss://evil.example/ws", "ws://127.0.0.1.evil.example/ws", "ws://a@evil.example/"]) {
      assert.throws(() => chooseGateways(known, wanted, "page.example"), /gets no token/);
    }
    for (const wanted of ["http://127.0.0.1/ws", "gateway", "2"]) {
      assert.throws(() => chooseGateways(known, wanted, "page.example"), /no gateway/);
    }
  });
});

describe("a room", () => {
  const message = (seq, more = {}) => ({ seq, user: "bob", text: `m${seq}`, sent_at: seq, ...more });
  const seqs = (room) => room.entries.map(({ seq }) => seq);

  test("keeps messages in order and once, whichever way they come", () => {
    const room = new Room("lobby", "ana");
    room.add(message(9));
    room.addNote("joined", { seq: 8, user: "eve" });
    assert.equal(room.add(message(9)), false);
    room.addPage({ messages: [message(3), message(5), message(9)], has_more: true });
    assert.deepEqual(seqs(room), [3, 5, 8, 9]);
    assert.deepEqual([room.firstSeq, room.hasEarlier, room.loaded], [3, true, true]);
  });

  test("a draft ends with its message, by reference", () => {
    const room = new Room("lobby", "ana");
    room.draft("r-1", "hello");
    room.draft("r-2", "hello");
    room.add(message(1, { user: "ana", text: "hello", client_ref: "r-2" }));
    assert.deepEqual(
      room.drafts.map(({ ref }) => ref),
      ["r-1"],
    );
  });

  test("where there is no reference, a draft ends with the first message that says the same", () => {
    const room = new Room("dm:ana:bob", "ana");
    room.draft("r-1", "hello");
    room.draft("r-2", "hello");
    room.add(message(1, { text: "hello" }));
    assert.equal(room.drafts.length, 2, "the other one said it");
    room.add(message(2, { user: "ana", text: "hello" }));
    assert.deepEqual(
      room.drafts.map(({ ref }) => ref),
      ["r-2"],
    );
  });

  test("a draft that failed says why and can be discarded", () => {
    const room = new Room("lobby", "ana");
    room.draft("r-1", "hello");
    room.failed("r-1", "not a member");
    room.failed("r-9", "gone already");
    assert.deepEqual(room.drafts, [{ ref: "r-1", text: "hello", problem: "not a member" }]);
    room.discard("r-1");
    assert.deepEqual(room.drafts, []);
  });

  test("who speaks or leaves does not type any more", () => {
    const room = new Room("lobby", "ana");
    room.typing.add("bob").add("eve");
    room.add(message(1));
    room.addNote("left", { seq: 2, user: "eve" });
    assert.equal(room.typing.size, 0);
  });

  test("members are unknown until somebody says", () => {
    const room = new Room("lobby", "ana");
    room.addNote("joined", { seq: 1, user: "bob" });
    assert.equal(room.members, null);
    room.members = new Set(["ana"]);
    room.addNote("joined", { seq: 2, user: "eve" });
    room.addNote("left", { seq: 3, user: "ana" });
    assert.deepEqual([...room.members], ["eve"]);
  });
});

describe("orders", () => {
  const order = (order_id, revision = 1, more = {}) => ({ order_id, revision, status: "submitted", ...more });
  const ids = (book) => book.orders.map(({ order_id }) => order_id);

  test("the highest revision stands, whatever comes late", () => {
    const book = new OrderBook();
    book.take(order("O1", 3, { status: "paid" }));
    book.take(order("O1", 2, { status: "confirmed" }));
    assert.equal(book.orders[0].status, "paid");
  });

  test("a new order goes to the top, a known one stays where it is", () => {
    const book = new OrderBook();
    book.takePage([order("O2"), order("O1")], { older: false });
    book.take(order("O3"));
    book.take(order("O1", 2));
    assert.deepEqual(ids(book), ["O3", "O2", "O1"]);
  });

  test("older pages go below, a reloaded first page keeps what stood above and below it", () => {
    const book = new OrderBook();
    book.takePage([order("O4"), order("O3")], { older: false });
    book.takePage([order("O2"), order("O1")], { older: true });
    book.take(order("O6"));
    book.takePage([order("O5"), order("O4"), order("O3")], { older: false });
    assert.deepEqual(ids(book), ["O6", "O5", "O4", "O3", "O2", "O1"]);
  });

  test("what was pushed before the first list came stands above it, once", () => {
    const book = new OrderBook();
    book.take(order("O3"));
    book.takePage([order("O2"), order("O1")], { older: false });
    book.takePage([order("O3"), order("O2"), order("O1")], { older: false });
    assert.deepEqual(ids(book), ["O3", "O2", "O1"]);
  });
});
