import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, mock, test } from "node:test";

import { TowpathError, connect, keyOf } from "../src/index.js";
import type { ConnectOptions } from "../src/index.js";
import { RETURN_MS, complaints, connecting, errorsOf, network, onAPage, opened, settle, wait } from "./client-under-test.js";

describe("connect", () => {
  test("goes to the address with the token among the subprotocols, never in the URL", async () => {
    await connecting();
    assert.equal(network.socket.url, "ws://one/ws");
    assert.deepEqual(network.socket.protocols, ["towpath.v1", "towpath.token.t-1"]);
  });

  test("reports its states in order", async () => {
    const states: string[] = [];
    const client = await connecting({ token: async () => "t-1" });
    client.onState((state) => states.push(state));
    assert.equal(client.state, "connecting");
    network.socket.welcome();
    assert.equal(client.connection?.gateway_id, "gw-1");
    network.socket.breaks();
    assert.equal(client.connection, null);
    await wait(RETURN_MS);
    network.socket.welcome();
    await client.close();
    assert.equal(client.connection, null);
    assert.deepEqual(states, ["open", "recovering", "open", "closed"]);
    assert.deepEqual(network.socket.closed, [1000, ""]);
  });

  test("says at once what cannot work, and names it", () => {
    const good = { url: "ws://one/ws", token: () => "t", WebSocket: network.WebSocket };
    const bad: [object, string, RegExp][] = [
      [{ url: undefined }, "bad_url", /address/],
      [{ urls: [] }, "bad_url", /address/],
      [{ urls: "ws://one/ws" }, "bad_url", /address/],
      [{ urls: ["ws://one/ws", "/ws"] }, "bad_url", /"\/ws"/],
      [{ url: "http://one/ws" }, "bad_url", /"http:\/\/one\/ws".*wss:\/\//],
      [{ url: "ws://one/ws#here" }, "bad_url", /#here/],
      [{ url: "one" }, "bad_url", /"one"/],
      [{ url: null }, "bad_url", /null/],
      [{ token: "t" }, "no_token", /function/],
      [{ token: undefined }, "no_token", /function/],
      [{ WebSocket: 5 }, "no_websocket", /`ws`/],
    ];
    for (const [options, code, message] of bad) {
      assert.throws(() => connect({ ...good, ...options } as ConnectOptions), { name: "TowpathError", code, message });
    }
  });

  test("tries the next address, and reports when", async () => {
    const client = await connecting({ urls: ["ws://one/ws", "ws://two/ws"] });
    const retries: unknown[] = [];
    client.on("retry", (retry) => retries.push(retry));
    network.socket.breaks();
    await wait(499);
    assert.equal(network.sockets.length, 1);
    await wait(1);
    assert.equal(network.socket.url, "ws://two/ws");
    assert.deepEqual(retries, [{ attempt: 1, delayMs: 500, code: 1006, reason: "" }]);
  });

  test("a WebSocket constructor that throws counts as a failed connect", async () => {
    let tries = 0;
    const client = connect({
      url: "ws://one/ws",
      token: () => "t-1",
      WebSocket: class {
        constructor() {
          tries += 1;
          throw new SyntaxError("not from here");
        }
      } as never,
    });
    const errors = errorsOf(client);
    await settle();
    await wait(500);
    assert.equal(tries, 2);
    assert.deepEqual(errors.map(({ message }) => message), ["not from here", "not from here"]);
    await client.close();
  });

  test("a refused upgrade is reported with its status, where the WebSocket has it", async () => {
    const client = await connecting();
    const errors = errorsOf(client);
    network.socket.breaks(1006, "", "Unexpected server response: 403"); // as the package ws says it
    assert.deepEqual([errors[0].code, errors[0].retryable, errors[0].details], ["refused", true, { status: 403 }]);
    await wait(500);
    network.socket.welcome();
    assert.equal(client.state, "open");
  });

  test("the WebSocket's error is the reason of the retry", async () => {
    const client = await connecting();
    const retry = mock.fn();
    client.on("retry", retry);
    network.socket.breaks(1006, "", "connect ECONNREFUSED 127.0.0.1:1");
    assert.equal(retry.mock.calls[0]?.arguments[0].reason, "connect ECONNREFUSED 127.0.0.1:1");
    await assert.rejects(Promise.all([client.opened(100), wait(100)]), {
      code: "timeout",
      message: "No connection within 0.1 s; the last attempt: 1006: connect ECONNREFUSED 127.0.0.1:1.",
    });
  });

  test("a WebSocket that fails without saying that it is closed counts as closed a second later", async () => {
    const client = await connecting();
    const retry = mock.fn();
    client.on("retry", retry);
    network.socket.onerror?.({ error: new Error("non-101 status code") }); // as Node 20 has it
    await wait(999);
    assert.equal(retry.mock.callCount(), 0);
    await wait(1);
    const told = { attempt: 1, delayMs: 500, code: 1006, reason: "non-101 status code" };
    assert.deepEqual(retry.mock.calls[0]?.arguments, [told]);
    await wait(500);
    network.socket.welcome();
    assert.equal(client.state, "open");
  });

  test("an error of a socket that was let go of is heard, so that none is thrown, and means nothing", async () => {
    const client = await connecting();
    const { socket } = network;
    await client.close();
    socket.onerror!({ message: "WebSocket was closed before the connection was established" });
    await wait(10_000);
    assert.equal(client.state, "closed");
    assert.equal(complaints.mock.callCount(), 0);
  });

  test("the close code that follows an error counts", async () => {
    const client = await opened();
    network.socket.breaks(4502, "revoked", "something went wrong");
    await wait(1_000);
    await assert.rejects(client.opened(), /4502: revoked/);
  });

  test("a socket that cannot even be closed or sent to does not stop the client", async () => {
    const client = await opened();
    const errors = errorsOf(client);
    network.socket.send = network.socket.close = () => {
      throw new Error("broken");
    };
    client.request("chat.rooms", {});
    await client.close();
    assert.deepEqual(errors.map(({ message }) => message), ["broken", "broken"]);
    assert.equal(client.state, "closed");
  });
});

describe("opened", () => {
  test("waits for the welcome", async () => {
    const client = await connecting();
    const wanted = client.opened();
    network.socket.welcome();
    assert.equal((await wanted).user_id, "ana");
    assert.equal((await client.opened()).user_id, "ana");
  });

  test("is rejected with the reason when the client is closed", async () => {
    const client = await connecting();
    const wanted = client.opened();
    network.socket.breaks(4502, "kicked");
    await assert.rejects(wanted, { code: "closed", message: /4502: kicked/ });
    await assert.rejects(client.opened(), /4502: kicked/);
  });

  test("is rejected after thirty seconds by default; the client continues", async () => {
    const client = await connecting();
    const [usual, hasty, patient] = [client.opened(), client.opened(100), client.opened(Infinity)];
    await wait(100);
    await assert.rejects(hasty, { code: "timeout", retryable: true, message: "No connection within 0.1 s." });
    await wait(29_900);
    await assert.rejects(usual, { code: "timeout", message: /no session.welcome in time/ });
    await wait(1_000);
    network.socket.welcome();
    assert.equal((await patient).user_id, "ana");
  });
});

describe("a token callback", () => {
  test("that fails is reported and tried again", async () => {
    const tokens: ConnectOptions["token"][] = [
      () => {
        throw new Error("offline");
      },
      () => Promise.reject("still offline"),
      () => "<html>Log in</html>",
      () => "t-1",
    ];
    const client = connect({ url: "ws://one/ws", token: () => tokens.shift()!(), WebSocket: network.WebSocket });
    const errors = errorsOf(client);
    await settle();
    for (const ms of [500, 1_000, 2_000]) await wait(ms);
    assert.deepEqual(
      errors.map(({ code, message, retryable }) => [code, message, retryable]),
      [
        ["no_token", "token() failed: offline", true],
        ["no_token", "token() failed: still offline", true],
        ["no_token", 'token() gave "<html>Log in</html>", no JWT.', true],
      ],
    );
    network.socket.welcome();
    assert.equal(client.state, "open");
  });

  test("that never returns counts as failed after thirty seconds, and what comes later is not used", async () => {
    const late: ((token: string) => void)[] = [];
    const client = await connecting({ token: () => new Promise((resolve) => late.push(resolve)) });
    const errors = errorsOf(client);
    await wait(30_000);
    assert.deepEqual([errors[0].code, errors[0].message], ["no_token", "token() failed: nothing came within 30 s"]);
    late[0]?.("too-late");
    await wait(500);
    assert.equal(network.sockets.length, 0);
    late[1]?.("t-2");
    await settle();
    assert.equal(network.socket.protocols[1], "towpath.token.t-2");
    assert.equal(client.state, "connecting");
  });

  test("ends the client with an error that is not retryable, or with no token at all", async () => {
    const signedOut = new TowpathError("no_token", "signed out");
    for (const token of [() => Promise.reject(signedOut), () => "", () => null, () => 7, () => ({})]) {
      const client = await connecting({ token: token as never });
      assert.equal(client.state, "closed");
      await assert.rejects(client.opened(), { code: "no_token" });
    }
  });

  test("is called again after 4003, and when the token is about to expire", async () => {
    let tokens = 0;
    await opened({ token: () => `t-${(tokens += 1)}` });
    network.socket.breaks(4003);
    await wait(RETURN_MS);
    assert.equal(network.socket.protocols[1], "towpath.token.t-2");
    network.socket.welcome();
    network.socket.says("session.expiring", { expires_at: 0 });
    await settle();
    assert.deepEqual(network.socket.last["data"], { token: "t-3" });
  });

  test("that fails while the connection is open leaves it open, and is tried again", async () => {
    let tokens = 0;
    const client = await opened({ token: () => ((tokens += 1) === 2 ? Promise.reject(new Error("offline")) : "t-1") });
    const errors = errorsOf(client);
    network.socket.says("session.expiring", { expires_at: 0 });
    await settle();
    assert.deepEqual(errors.map(({ code }) => code), ["no_token"]);
    await wait(10_000);
    assert.equal(network.socket.last["action"], "session.refresh");
  });
});

describe("request", () => {
  test("gives the answer's data", async () => {
    const client = await opened();
    const answer = client.request("chat.send", { room: "lobby", text: "hello" }, { key: "lobby" });
    assert.equal(network.socket.last["key"], "lobby");
    network.socket.answers({ seq: 7 });
    assert.equal((await answer).seq, 7);
  });

  test("gives a typed error", async () => {
    const client = await opened();
    const answer = client.request("chat.rooms");
    const { msg_id } = network.socket.last;
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
    assert.equal(new Set([...ids, network.socket.last["msg_id"]]).size, 3);
  });

  test("survives a reconnect with the same id", async () => {
    const client = await opened();
    const answer = client.request("order.submit", { amount: "9.00" });
    const before = network.socket.last;
    network.socket.breaks();
    await wait(RETURN_MS);
    network.socket.welcome();
    assert.deepEqual(network.socket.sent, [before]);
    network.socket.answers({ order_id: "O1" });
    assert.equal((await answer).order_id, "O1");
  });

  test("made while the socket is closing leaves on the next one", async () => {
    const client = await opened();
    network.socket.readyState = 2;
    client.request("chat.rooms");
    network.socket.breaks();
    await wait(RETURN_MS);
    network.socket.welcome();
    assert.equal(network.socket.last["action"], "chat.rooms");
  });

  test("times out after thirty seconds by default", async () => {
    const client = await opened();
    const usual = client.request("chat.rooms");
    const patient = client.request("chat.rooms", {}, { timeout: Infinity });
    const hasty = client.request("chat.rooms", {}, { timeout: 100 });
    await wait(100);
    await assert.rejects(hasty, { code: "timeout", retryable: true });
    await wait(29_900);
    await assert.rejects(usual, { code: "timeout" });
    network.socket.says("chat.rooms.ok", { rooms: [] }, { correlation_id: network.socket.sent[1]?.["msg_id"] });
    assert.deepEqual(await patient, { rooms: [] });
  });

  test("can be given up by a signal, before and after it left", async () => {
    const client = await opened();
    const stop = new AbortController();
    const answer = client.request("chat.rooms", {}, { signal: stop.signal });
    stop.abort("changed my mind");
    await assert.rejects(answer, { code: "aborted", cause: "changed my mind" });
    assert.equal(await answer.catch(({ details }) => details), undefined, "it had left");
    const never = client.request("chat.rooms", {}, { signal: stop.signal });
    await assert.rejects(never, { code: "aborted", details: { sent: false } });
    assert.equal(network.socket.sent.length, 1);
  });

  test("leaves nothing on the signal once it has ended", async () => {
    const client = await opened();
    const { signal } = new AbortController();
    const answers = [0, 1, 2].map(() => client.request("chat.rooms", {}, { signal, timeout: 100 }));
    assert.equal(getEventListeners(signal, "abort").length, 3);
    network.socket.answers({ rooms: [] });
    await wait(100);
    await Promise.allSettled(answers);
    assert.deepEqual(getEventListeners(signal, "abort"), []);
  });

  test("calls back once the broker has it", async () => {
    const client = await opened();
    const accepted = mock.fn(() => {
      throw new Error("in the callback");
    });
    client.request("order.submit", {}, { ack: accepted });
    const { ack, msg_id } = network.socket.last;
    network.socket.says("accepted", {}, { correlation_id: msg_id });
    assert.equal(ack, true);
    assert.equal(accepted.mock.callCount(), 1);
    assert.equal(complaints.mock.callCount(), 1, "its error is reported");
  });

  test("refuses what the wire does not take, and says that it never left", async () => {
    const client = await opened();
    const bad: [string, unknown, object?][] = [
      ["chat.send", {}, { key: "café" }],
      ["chat.send", {}, { msgId: "" }],
      ["chat.send", null],
      ["chat.send", [1]],
      ["chat.send", "text"],
    ];
    for (const [action, data, options] of bad) {
      const refused = { code: "bad_envelope", details: { sent: false } };
      await assert.rejects(client.request(action as "some.action", data as object, options), refused);
    }
    await assert.rejects(client.request("some.action", { n: 1n }), { code: "invalid_data", details: { sent: false } });
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
    await assert.rejects(client.request("chat.rooms"), { code: "closed", details: { sent: false } });
  });

  test("with a stream misses nothing between the answer and the first push", async () => {
    const client = await opened();
    const seen: unknown[] = [];
    client.on("chat.message", (_, { seq }) => seen.push(seq));
    const answer = client.request("chat.join", { room: "lobby" }, { stream: "chat:lobby" });
    const joined = answer.then(({ seq }) => seen.push(`joined at ${seq}`));
    network.socket.pushes("chat:lobby", 6);
    network.socket.pushes("chat:lobby", 4);
    network.socket.answers({ room: "lobby", seq: 4, members: [] });
    assert.deepEqual(network.socket.last["data"], { positions: { "chat:lobby": 4 } }, "5 is missing");
    network.socket.pushes("chat:lobby", 5);
    await joined;
    assert.deepEqual(seen, [5, 6, "joined at 4"]);
    assert.deepEqual(client.positions, { "chat:lobby": 6 });
  });
});

describe("listeners", () => {
  test("get the pushes of their action, until taken off", async () => {
    const client = await opened();
    const texts: unknown[] = [];
    const off = client.on("chat.message", ({ text }, { stream, seq }) => texts.push([text, stream, seq]));
    network.socket.pushes("chat:lobby", 1, { text: "one" });
    network.socket.says("chat.typing", {});
    off();
    network.socket.pushes("chat:lobby", 2, { text: "two" });
    assert.deepEqual(texts, [["one", "chat:lobby", 1]]);
    assert.deepEqual(client.positions, { "chat:lobby": 2 });
  });

  test("that throw or reject do not stop others, and are reported to onError, else to the console", async () => {
    const client = await opened();
    const heard: string[] = [];
    client.on("chat.typing", () => {
      throw new Error("first");
    });
    client.on("chat.typing", () => Promise.reject(new Error("second")));
    client.on("chat.typing", () => heard.push("third"));
    network.socket.says("chat.typing");
    await settle();
    assert.equal(complaints.mock.callCount(), 2);
    const errors: string[] = [];
    client.onError((error) => {
      errors.push((error as Error).message);
      throw new Error("worse");
    });
    client.on("error", () => Promise.reject(new Error("worst")));
    network.socket.says("chat.typing");
    await settle();
    assert.deepEqual(heard, ["third", "third"]);
    assert.deepEqual(errors, ["first", "second"]);
    assert.equal(complaints.mock.callCount(), 6);
  });

  test("of every event may throw", async () => {
    const client = await connecting({ positions: { "chat:lobby": 3 } });
    const errors = errorsOf(client);
    for (const name of ["state", "retry", "incomplete", "*"] as const) {
      client.on(name, () => {
        throw new Error(name);
      });
    }
    network.socket.welcome();
    network.socket.answers({ streams: {} });
    network.socket.breaks();
    await client.close();
    const told = errors.map(({ message }) => message);
    assert.deepEqual(told, ["state", "*", "incomplete", "state", "retry", "state"]);
  });

  test("may make requests and close the client amid a burst", async () => {
    const client = await opened();
    const seen: unknown[] = [];
    client.on("chat.message", (_, { seq }) => {
      seen.push(seq);
      client.request("chat.read", { room: "lobby", seq: seq ?? 0 });
      if (seq === 2) client.close();
    });
    for (const seq of [1, 2, 3]) network.socket.pushes("chat:lobby", seq);
    await settle();
    assert.deepEqual(seen, [1, 2]);
    assert.equal(client.state, "closed");
  });

  test("hear that a stream is incomplete", async () => {
    const client = await opened({ positions: { "chat:lobby": 3 } });
    const incomplete = mock.fn();
    client.on("incomplete", incomplete);
    network.socket.answers({ streams: { "chat:lobby": { seq: 9, complete: false } } });
    assert.deepEqual(incomplete.mock.calls[0]?.arguments, [{ stream: "chat:lobby", seq: 9 }]);
    assert.deepEqual(client.positions, { "chat:lobby": 9 });
  });

  test("cannot be fooled by a push that is named like one of the client's own events", async () => {
    const client = await opened();
    const listener = mock.fn();
    for (const name of ["state", "incomplete", "retry", "error", "*"]) client.on(name, listener);
    for (const name of ["state", "incomplete", "retry", "*", "constructor"]) network.socket.says(name, {});
    assert.equal(listener.mock.callCount(), 0);
  });
});

describe("a server that answers nonsense", () => {
  test("is reported for an invalid envelope, text or not, and the client continues", async () => {
    const client = await opened();
    const errors = errorsOf(client);
    for (const data of ["", "{", "[]", "7", '{"action":7,"data":{}}', new Blob(["{}"]), new ArrayBuffer(2), null]) {
      network.socket.hears(data);
    }
    assert.deepEqual(errors.map(({ code }) => code), Array(8).fill("bad_frame"));
    assert.equal(client.state, "open");
  });

  test("and says odd things in every place is taken for what it says", async () => {
    const client = await opened({ positions: { "chat:lobby": 3 } });
    const errors = errorsOf(client);
    network.socket.says("session.closing", { code: [], reason: {}, retry_after_ms: "soon" });
    network.socket.says("session.expiring", { expires_at: null });
    network.socket.says("chat.resume.ok", { streams: 5 }, { correlation_id: network.socket.last["msg_id"] });
    network.socket.says("error", { code: null }, { correlation_id: { a: 1 } });
    network.socket.says("chat.message", {}, { stream: {}, seq: [] });
    const answer = client.request("chat.join", { room: "lobby" }, { stream: "chat:den" });
    network.socket.answers({ seq: "seven" });
    assert.deepEqual(await answer, { seq: "seven" });
    network.socket.breaks(1006, "");
    await wait(RETURN_MS);
    network.socket.welcome({ heartbeat_ms: {}, max_frame_bytes: "many" });
    assert.equal(client.state, "open");
    assert.deepEqual(errors.map(({ code }) => code), ["internal"]);
  });
});

describe("streams", () => {
  test("a hole is resumed over the wire", async () => {
    const client = await opened();
    const seen: unknown[] = [];
    client.on("chat.message", (_, { seq }) => seen.push(seq));
    network.socket.pushes("chat:lobby", 1);
    network.socket.pushes("chat:lobby", 4);
    assert.deepEqual(network.socket.last["data"], { positions: { "chat:lobby": 1 } });
    for (const seq of [2, 3]) network.socket.pushes("chat:lobby", seq);
    network.socket.answers({ streams: { "chat:lobby": { seq: 4, complete: true } } });
    assert.deepEqual(seen, [1, 2, 3, 4]);
  });

  test("tracked positions are resumed on demand", async () => {
    const client = await opened();
    client.track("chat:lobby", 12);
    client.track("chat:den", 1);
    client.forget("chat:den");
    client.resume("chat");
    assert.deepEqual(network.socket.last["data"], { positions: { "chat:lobby": 12 } });
  });
});

describe("a connection that went dead", () => {
  test("is found by a ping and left without waiting for it", async () => {
    const client = await opened();
    const dead = network.socket;
    await wait(50_000);
    assert.equal(dead.last["action"], "ping");
    await wait(5_000);
    assert.equal(dead.onmessage, null, "its later messages are ignored");
    assert.deepEqual(dead.closed, [4002, "no answer to a ping"]);
    assert.equal(client.state, "recovering");
    await wait(RETURN_MS);
    network.socket.welcome();
    assert.equal(client.state, "open");
  });
});

describe("on a page", () => {
  test("the return of the network ends the wait", async () => {
    const page = onAPage();
    await opened();
    network.socket.breaks();
    page.dispatchEvent(new Event("online"));
    await wait(500);
    assert.equal(network.sockets.length, 2);
  });

  test("a closed client listens to nothing any more", async () => {
    const page = onAPage();
    const saved = mock.fn();
    const client = await connecting({ storage: { load: () => null, save: saved } });
    await client.close();
    client.track("chat:lobby", 1);
    for (const name of ["online", "pagehide"]) page.dispatchEvent(new Event(name));
    await wait(60_000);
    assert.deepEqual([network.sockets.length, saved.mock.callCount()], [1, 0]);
  });
});

test("nothing is left behind: a closed client holds no timer", async () => {
  const cleared = mock.method(globalThis, "clearTimeout");
  const set = mock.method(globalThis, "setTimeout");
  const client = await opened({ token: () => "t-1", storage: { load: () => ({}), save: () => {} } });
  client.request("chat.rooms");
  client.opened();
  network.socket.says("session.expiring", {});
  client.track("chat:lobby", 1);
  client.close();
  await settle();
  const off = new Set(cleared.mock.calls.map(({ arguments: [timer] }) => timer));
  const left = set.mock.calls.filter(({ result }) => !off.has(result as never));
  assert.deepEqual(left, []);
  await wait(10 * 60_000);
  assert.equal(network.sockets.length, 1);
});

test("a client that is closed while a token is awaited leaves no timer either", async () => {
  const client = await connecting({ token: () => new Promise(() => {}) });
  const errors = errorsOf(client);
  client.close();
  await wait(60_000);
  assert.deepEqual(errors, []);
});

test("a key is the name itself where it can be, else its checksum", () => {
  assert.equal(keyOf("lobby"), "lobby");
  assert.equal(keyOf("dm:ana:bob"), "dm:ana:bob");
  assert.equal(keyOf("café"), "crc32:98ad42b5"); // as zlib has it
  assert.equal(keyOf("x".repeat(65)), "crc32:7f5fb567");
});
