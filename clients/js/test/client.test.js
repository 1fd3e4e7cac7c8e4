import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { TowpathError, connect, keyOf } from "../src/index.js";
import { Network, settle } from "./network.js";

let network, complaints;

beforeEach(() => {
  network = new Network();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  mock.method(Math, "random", () => 0.5);
  complaints = mock.method(console, "error", () => {});
});

afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

/** A client whose socket is about to be opened. */
async function connecting(options = {}) {
  const client = connect({
    url: "ws://one/ws",
    token: () => "t-1",
    WebSocket: network.WebSocket,
    ...options,
  });
  await settle();
  return client;
}

async function opened(options) {
  const client = await connecting(options);
  network.socket.welcome();
  return client;
}

async function wait(ms) {
  mock.timers.tick(ms);
  await settle();
}

describe("connect", () => {
  test("goes to the address with the token among the subprotocols, never in the URL", async () => {
    await connecting();
    assert.equal(network.socket.url, "ws://one/ws");
    assert.deepEqual(network.socket.protocols, ["towpath.v1", "towpath.token.t-1"]);
  });

  test("tells its states in order", async () => {
    const states = [];
    const client = await connecting({ token: async () => "t-1" });
    client.onState((state) => states.push(state));
    assert.equal(client.state, "connecting");
    network.socket.welcome();
    assert.equal(client.connection.gateway_id, "gw-1");
    network.socket.breaks();
    assert.equal(client.connection, null);
    await wait(500);
    network.socket.welcome();
    client.close();
    assert.deepEqual(states, ["open", "recovering", "open", "closed"]);
    assert.deepEqual(network.socket.closed, [1000, ""]);
  });

  test("opened() waits for the welcome, or fails with the reason", async () => {
    const client = await connecting();
    const wanted = client.opened();
    network.socket.welcome();
    assert.equal((await wanted).user_id, "ana");
    network.socket.breaks(4502, "kicked");
    await assert.rejects(client.opened(), /4502: kicked/);
  });

  test("says at once what cannot work", () => {
    const good = { url: "ws://one/ws", token: () => "t", WebSocket: network.WebSocket };
    const bad = [
      [{ url: undefined }, "bad_url"],
      [{ urls: [] }, "bad_url"],
      [{ url: "http://one/ws" }, "bad_url"],
      [{ url: "one" }, "bad_url"],
      [{ url: null }, "bad_url"],
      [{ token: "t" }, "no_token"],
      [{ WebSocket: null }, "no_websocket"],
    ];
    for (const [options, code] of bad) {
      assert.throws(() => connect({ ...good, ...options }), { name: "TowpathError", code });
    }
  });

  test("tries the next address after half of a second on average, and tells when", async () => {
    const retries = [];
    const client = await connecting({ urls: ["ws://one/ws", "ws://two/ws"] });
    client.on("retry", (retry) => retries.push(retry));
    network.socket.breaks();
    await wait(499);
    assert.equal(network.sockets.length, 1);
    await wait(1);
    assert.equal(network.socket.url, "ws://two/ws");
    assert.deepEqual(retries, [{ attempt: 1, delayMs: 500, code: 1006, reason: "" }]);
  });

  test("a WebSocket constructor that throws counts as a failed connect", async () => {
    const errors = [];
    let tries = 0;
    const client = connect({
      url: "ws://one/ws",
      token: () => "not a token",
      WebSocket: class {
        constructor() {
          tries += 1;
          throw new SyntaxError("bad subprotocol");
        }
      },
    });
    client.onError((error) => errors.push(error.message));
    await settle();
    await wait(500);
    assert.equal(tries, 2);
    assert.deepEqual(errors, ["bad subprotocol", "bad subprotocol"]);
  });

  test("a token callback that fails is reported and tried again", async () => {
    const tokens = [
      () => {
        throw new Error("offline");
      },
      () => Promise.reject(new Error("still offline")),
      () => "t-1",
    ];
    const errors = [];
    const client = connect({ url: "ws://one/ws", token: () => tokens.shift()(), WebSocket: network.WebSocket });
    client.onError(({ code, message, retryable }) => errors.push([code, message, retryable]));
    await settle();
    await wait(500);
    await wait(1_000);
    assert.deepEqual(errors, [
      ["no_token", "token() failed: offline", true],
      ["no_token", "token() failed: still offline", true],
    ]);
    network.socket.welcome();
    assert.equal(client.state, "open");
  });

  test("a token callback ends the client with an error that is not retryable, or with no token at all", async () => {
    const signedOut = new TowpathError("no_token", "signed out");
    for (const token of [() => Promise.reject(signedOut), () => "", () => null]) {
      const client = await connecting({ token });
      assert.equal(client.state, "closed");
      await assert.rejects(client.opened(), { code: "no_token" });
    }
  });

  test("after 4003 the token is fetched again, and swapped in place when it is about to expire", async () => {
    let tokens = 0;
    await opened({ token: () => `t-${(tokens += 1)}` });
    network.socket.breaks(4003);
    await wait(500);
    assert.equal(network.socket.protocols[1], "towpath.token.t-2");
    network.socket.welcome();
    network.socket.says("session.expiring", { expires_at: 0 });
    await settle();
    assert.deepEqual(network.socket.sent.at(-1).data, { token: "t-3" });
  });
});

describe("request", () => {
  test("gives the answer's data", async () => {
    const client = await opened();
    const answer = client.request("chat.send", { room: "lobby", text: "hello" }, { key: "lobby" });
    assert.equal(network.socket.sent[0].key, "lobby");
    network.socket.answers({ seq: 7 });
    assert.deepEqual(await answer, { seq: 7 });
  });

  test("gives a typed error", async () => {
    const client = await opened();
    const answer = client.request("chat.send");
    const { msg_id } = network.socket.sent[0];
    network.socket.says("error", { code: "forbidden", message: "not a member" }, { correlation_id: msg_id });
    await assert.rejects(answer, (error) => error instanceof TowpathError && error.code === "forbidden");
  });

  test("ids differ, within a client and between clients", async () => {
    const one = await opened();
    one.request("chat.rooms");
    one.request("chat.rooms");
    const ids = network.socket.sent.map(({ msg_id }) => msg_id);
    const two = await opened();
    two.request("chat.rooms");
    assert.equal(new Set([...ids, network.socket.sent[0].msg_id]).size, 3);
  });

  test("survives a reconnect with the same id", async () => {
    const client = await opened();
    const answer = client.request("order.submit", { amount: "9.00" });
    const [before] = network.socket.sent;
    network.socket.breaks();
    await wait(500);
    network.socket.welcome();
    assert.deepEqual(network.socket.sent, [before]);
    network.socket.answers({ order_id: "O1" });
    assert.equal((await answer).order_id, "O1");
  });

  test("a request made while the socket is closing leaves on the next one", async () => {
    const client = await opened();
    network.socket.readyState = 2;
    client.request("chat.rooms");
    network.socket.breaks();
    await wait(500);
    network.socket.welcome();
    assert.equal(network.socket.sent[0].action, "chat.rooms");
  });

  test("times out after thirty seconds unless told otherwise", async () => {
    const client = await opened();
    const usual = client.request("chat.rooms");
    const patient = client.request("chat.rooms", {}, { timeout: Infinity });
    const hasty = client.request("chat.rooms", {}, { timeout: 100 });
    await wait(100);
    await assert.rejects(hasty, { code: "timeout", retryable: true });
    await wait(29_900);
    await assert.rejects(usual, { code: "timeout" });
    network.socket.says("chat.rooms.ok", { rooms: [] }, { correlation_id: network.socket.sent[1].msg_id });
    assert.deepEqual(await patient, { rooms: [] });
  });

  test("can be given up by a signal, before and after it left", async () => {
    const client = await opened();
    const stop = new AbortController();
    const answer = client.request("chat.rooms", {}, { signal: stop.signal });
    stop.abort("changed my mind");
    await assert.rejects(answer, { code: "aborted", cause: "changed my mind" });
    await assert.rejects(client.request("chat.rooms", {}, { signal: stop.signal }), { code: "aborted" });
    assert.equal(network.socket.sent.length, 1);
  });

  test("calls back once the broker has it", async () => {
    const client = await opened();
    const accepted = mock.fn();
    client.request("order.submit", {}, { ack: accepted });
    const [{ ack, msg_id }] = network.socket.sent;
    network.socket.says("accepted", {}, { correlation_id: msg_id });
    assert.equal(ack, true);
    assert.equal(accepted.mock.callCount(), 1);
  });

  test("refuses an id or key that the wire does not take", async () => {
    const client = await opened();
    await assert.rejects(client.request("chat.send", {}, { key: "café" }), { code: "bad_envelope" });
    await assert.rejects(client.request("chat.send", {}, { msgId: "" }), { code: "bad_envelope" });
    assert.deepEqual(network.socket.sent, []);
  });

  test("can be asked again with its id, but not twice at a time", async () => {
    const client = await opened();
    const first = client.request("order.submit", {}, { msgId: "m-1", timeout: 10 });
    await assert.rejects(client.request("order.submit", {}, { msgId: "m-1" }), { code: "conflict" });
    await wait(10);
    await assert.rejects(first, { code: "timeout", msgId: "m-1" });
    const second = client.request("order.submit", {}, { msgId: "m-1" });
    network.socket.answers({ order_id: "O1" });
    assert.equal((await second).order_id, "O1");
  });

  test("is refused when too many wait for a connection, and when the client is closed", async () => {
    const client = await connecting({ queueLimit: 1 });
    const waiting = client.request("chat.rooms");
    await assert.rejects(client.request("chat.rooms"), { code: "queue_full" });
    client.close();
    await assert.rejects(waiting, { code: "closed" });
    await assert.rejects(client.request("chat.rooms"), { code: "closed" });
  });
});

describe("listeners", () => {
  test("get the pushes of their action, until taken off", async () => {
    const client = await opened();
    const texts = [];
    const off = client.on("chat.message", ({ text }, { stream, seq }) => texts.push([text, stream, seq]));
    network.socket.says("chat.message", { text: "one" }, { stream: "chat:lobby", seq: 1 });
    network.socket.says("chat.typing", {});
    off();
    network.socket.says("chat.message", { text: "two" }, { stream: "chat:lobby", seq: 2 });
    assert.deepEqual(texts, [["one", "chat:lobby", 1]]);
    assert.deepEqual(client.positions, { "chat:lobby": 2 });
  });

  test("that throw or reject harm nobody, and are told to onError, else to the console", async () => {
    const client = await opened();
    const heard = [];
    client.on("chat.typing", () => {
      throw new Error("first");
    });
    client.on("chat.typing", () => Promise.reject(new Error("second")));
    client.on("chat.typing", () => heard.push("third"));
    network.socket.says("chat.typing");
    await settle();
    assert.equal(complaints.mock.callCount(), 2);
    const errors = [];
    client.onError((error) => {
      errors.push(error.message);
      throw new Error("worse");
    });
    network.socket.says("chat.typing");
    await settle();
    assert.deepEqual(heard, ["third", "third"]);
    assert.deepEqual(errors, ["first", "second"]);
    assert.equal(complaints.mock.callCount(), 4);
  });

  test("may make requests and close the client amid a burst", async () => {
    const client = await opened();
    const seen = [];
    client.on("chat.message", (_, { seq }) => {
      seen.push(seq);
      client.request("chat.read", { seq });
      if (seq === 2) client.close();
    });
    for (const seq of [1, 2, 3]) network.socket.says("chat.message", {}, { stream: "chat:lobby", seq });
    await settle();
    assert.deepEqual(seen, [1, 2]);
    assert.equal(client.state, "closed");
  });

  test("hear that a stream is incomplete", async () => {
    const client = await opened({ positions: { "chat:lobby": 3 } });
    const incomplete = mock.fn();
    client.on("incomplete", incomplete);
    network.socket.answers({ streams: { "chat:lobby": { seq: 9, complete: false } } });
    assert.deepEqual(incomplete.mock.calls[0].arguments, [{ stream: "chat:lobby", seq: 9 }]);
    assert.deepEqual(client.positions, { "chat:lobby": 9 });
  });

  test("cannot be fooled by a push that is named like one of the client's own events", async () => {
    const client = await opened();
    const listener = mock.fn();
    for (const name of ["state", "incomplete", "retry", "error", "*"]) client.on(name, listener);
    for (const name of ["state", "incomplete", "retry", "*"]) network.socket.says(name, {});
    assert.equal(listener.mock.callCount(), 0);
  });
});

describe("streams", () => {
  test("a hole is resumed over the wire", async () => {
    const client = await opened();
    const seen = [];
    client.on("chat.message", (_, { seq }) => seen.push(seq));
    const push = (seq) => network.socket.says("chat.message", {}, { stream: "chat:lobby", seq });
    push(1);
    push(4);
    assert.deepEqual(network.socket.sent[0].data, { positions: { "chat:lobby": 1 } });
    [2, 3].forEach(push);
    network.socket.answers({ streams: { "chat:lobby": { seq: 4, complete: true } } });
    assert.deepEqual(seen, [1, 2, 3, 4]);
  });

  test("tracked positions are resumed on demand", async () => {
    const client = await opened();
    client.track("chat:lobby", 12);
    client.track("chat:den", 1);
    client.forget("chat:den");
    client.resume("chat");
    assert.deepEqual(network.socket.sent[0].data, { positions: { "chat:lobby": 12 } });
  });
});

describe("a connection that went dead", () => {
  test("is found by a ping and left without waiting for it", async () => {
    const client = await opened();
    const dead = network.socket;
    await wait(50_000);
    assert.equal(dead.sent[0].action, "ping");
    await wait(5_000);
    assert.equal(dead.onmessage, null, "what it still says is not heard");
    assert.deepEqual(dead.closed, [4002, "no answer to a ping"]);
    assert.equal(client.state, "recovering");
    await wait(500);
    network.socket.welcome();
    assert.equal(client.state, "open");
  });
});

test("nothing is left behind: a closed client holds no timer", async () => {
  const client = await opened();
  client.request("chat.rooms");
  client.close();
  await wait(10 * 60_000);
  assert.equal(network.sockets.length, 1);
});

test("a key is the name itself where it can be, else its checksum", () => {
  assert.equal(keyOf("lobby"), "lobby");
  assert.equal(keyOf("dm:ana:bob"), "dm:ana:bob");
  assert.equal(keyOf("café"), "crc32:98ad42b5"); // as zlib has it
  assert.equal(keyOf("x".repeat(65)), "crc32:7f5fb567");
});
