import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { SessionUnderTest, asks, names, only, sent, seqs, timer } from "./session-under-test.js";
import { TowpathError } from "../src/errors.js";

describe("connecting", () => {
  test("a token is fetched, then the first address is tried with it", () => {
    const s = new SessionUnderTest({ urls: ["ws://one/ws", "ws://two/ws"] });
    assert.ok(asks(s.tell("start"), "connect"));
    const actions = s.tell("token", { purpose: "connect", token: "t-1" });
    assert.deepEqual(only(actions, "connect"), { do: "connect", url: "ws://one/ws", token: "t-1" });
    assert.equal(s.session.state, "connecting");
  });

  test("the welcome opens the session", () => {
    const s = new SessionUnderTest();
    const actions = s.open();
    assert.equal(only(actions, "state").state, "open");
    assert.equal(only(actions, "welcome").data.gateway_id, "gw-1");
  });

  test("a connect that fails moves on to the next address, and round again", () => {
    const s = new SessionUnderTest({ urls: ["ws://one/ws", "ws://two/ws"] });
    s.tell("start");
    const tried = [1, 2, 3].map((attempt) => {
      const { url } = only(s.tell("token", { purpose: "connect", token: `t-${attempt}` }), "connect");
      s.tell("disconnected", { code: 1006, reason: "" });
      assert.ok(asks(s.tell("timer", { timer: "reconnect" }), "connect"), "the token may have been the reason");
      return url;
    });
    assert.deepEqual(tried, ["ws://one/ws", "ws://two/ws", "ws://one/ws"]);
    assert.equal(s.session.state, "connecting");
  });

  test("a server that never says welcome is given up after ten seconds", () => {
    const s = new SessionUnderTest();
    s.tell("start");
    const connecting = s.tell("token", { purpose: "connect", token: "t-1" });
    assert.equal(timer(connecting, "welcome").max_ms, 10_000);
    const actions = s.tell("timer", { timer: "welcome" });
    only(actions, "disconnect");
    assert.ok(timer(actions, "reconnect"));
  });

  test("waits double from one second to thirty, with full jitter from the first", () => {
    const s = new SessionUnderTest();
    s.tell("start");
    const ceilings = Array.from({ length: 7 }, () => {
      s.tell("token", { purpose: "connect", token: "t" });
      const { min_ms, max_ms } = timer(s.tell("disconnected", { code: 1006, reason: "" }), "reconnect");
      s.tell("timer", { timer: "reconnect" });
      assert.equal(min_ms, 0);
      return max_ms / 1000;
    });
    assert.deepEqual(ceilings, [1, 2, 4, 8, 16, 30, 30]);
  });

  test("a token that cannot be fetched is tried again later, and the application hears of it", () => {
    const s = new SessionUnderTest();
    s.tell("start");
    const error = new TowpathError("no_token", "token() failed", { retryable: true });
    const actions = s.tell("token_failed", { purpose: "connect", error });
    assert.equal(only(actions, "report").error, error);
    assert.ok(timer(actions, "reconnect"));
  });

  test("a token that will never come closes the session", () => {
    const s = new SessionUnderTest();
    s.tell("start");
    const waiting = s.request("m-1");
    assert.deepEqual(names(waiting), []);
    const error = new TowpathError("no_token", "no such user");
    const actions = s.tell("token_failed", { purpose: "connect", error });
    assert.equal(only(actions, "state").state, "closed");
    assert.equal(only(actions, "reject").error.message, "no such user");
  });
});

describe("losing the connection", () => {
  for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 4001, 4002, 4003, 4005, 4499]) {
    test(`${code} is followed by another connect`, () => {
      const s = new SessionUnderTest();
      s.open();
      const actions = s.tell("disconnected", { code, reason: "" });
      assert.equal(only(actions, "state").state, "recovering");
      assert.ok(timer(actions, "reconnect"));
    });
  }

  for (const code of [1000, 1003, 1009, 4500, 4502, 4503, 4999]) {
    test(`${code} is final`, () => {
      const s = new SessionUnderTest();
      s.open();
      const actions = s.tell("disconnected", { code, reason: "replaced" });
      const { state, error } = only(actions, "state");
      assert.equal(state, "closed");
      assert.deepEqual(error.details, { close_code: code, reason: "replaced" });
      assert.equal(timer(actions, "reconnect"), undefined);
    });
  }

  test("after 4003 the token is fetched anew", () => {
    const s = new SessionUnderTest();
    s.open();
    s.tell("disconnected", { code: 4003, reason: "" });
    assert.ok(asks(s.tell("timer", { timer: "reconnect" }), "connect"));
  });

  test("otherwise the token that worked is used again", () => {
    const s = new SessionUnderTest();
    s.open();
    s.tell("disconnected", { code: 4001, reason: "" });
    const actions = s.tell("timer", { timer: "reconnect" });
    assert.equal(only(actions, "connect").token, "t-1");
  });

  test("a replica that restarts is left for the next one, a slow consumer comes back to the same", () => {
    const s = new SessionUnderTest({ urls: ["ws://one/ws", "ws://two/ws"] });
    s.open();
    s.tell("disconnected", { code: 4001, reason: "" });
    assert.equal(only(s.tell("timer", { timer: "reconnect" }), "connect").url, "ws://one/ws");
    s.hear("session.welcome", {});
    s.tell("disconnected", { code: 1012, reason: "" });
    assert.equal(only(s.tell("timer", { timer: "reconnect" }), "connect").url, "ws://two/ws");
  });

  test("the server's advice is a floor, with jitter on top, and holds once", () => {
    const s = new SessionUnderTest();
    s.open();
    s.hear("session.closing", { code: 1012, reason: "restart", retry_after_ms: 4_000 });
    const advised = timer(s.tell("disconnected", { code: 1012, reason: "" }), "reconnect");
    assert.deepEqual([advised.min_ms, advised.max_ms], [4_000, 5_000]);
    s.tell("timer", { timer: "reconnect" });
    assert.equal(timer(s.tell("disconnected", { code: 1006, reason: "" }), "reconnect").min_ms, 0);
  });

  test("advice that makes no sense is no floor", () => {
    for (const retry_after_ms of [-5, "soon", null, Number.NaN]) {
      const s = new SessionUnderTest();
      s.open();
      s.hear("session.closing", { code: 1012, retry_after_ms });
      assert.equal(timer(s.tell("disconnected", { code: 1012, reason: "" }), "reconnect").min_ms, 0);
    }
  });

  test("when the close frame got lost, the code that was announced counts", () => {
    const s = new SessionUnderTest();
    s.open();
    s.hear("session.closing", { code: 4503, reason: "too many connections" });
    const { state, error } = only(s.tell("disconnected", { code: 1006, reason: "" }), "state");
    assert.equal(state, "closed");
    assert.match(error.message, /4503: too many connections/);
  });

  test("a connection that held for ten seconds earns a fresh backoff, one that flaps does not", () => {
    const s = new SessionUnderTest();
    const ceiling = () => timer(s.tell("disconnected", { code: 4001, reason: "" }), "reconnect").max_ms;
    const back = () => (s.tell("timer", { timer: "reconnect" }), s.hear("session.welcome", {}));
    s.open();
    assert.equal(ceiling(), 1_000);
    back();
    assert.equal(ceiling(), 2_000);
    back();
    s.later(10_000);
    assert.equal(ceiling(), 1_000);
  });

  test("when the network comes back a long wait is cut short, but not below the advice", () => {
    const s = new SessionUnderTest();
    s.open();
    s.hear("session.closing", { retry_after_ms: 4_000 });
    s.tell("disconnected", { code: 1012, reason: "" });
    const wait = timer(s.later(1_000).tell("network"), "reconnect");
    assert.deepEqual([wait.min_ms, wait.max_ms], [3_000, 4_000]);
  });

  test("closing by the application says goodbye and rejects what has no answer", () => {
    const s = new SessionUnderTest();
    s.open();
    s.request("m-1");
    const actions = s.tell("close");
    assert.equal(only(actions, "disconnect").code, 1000);
    assert.equal(only(actions, "state").state, "closed");
    const { error } = only(actions, "reject");
    assert.deepEqual([error.code, error.retryable, error.msgId], ["closed", false, "m-1"]);
    assert.deepEqual(names(s.tell("close")), [], "twice is fine");
  });

  test("after the end nothing happens any more", () => {
    const s = new SessionUnderTest();
    s.open();
    s.tell("close");
    const late = ["reconnect", "welcome", "quiet", "pong", "refresh", "resume:chat", "request:m-1"];
    for (const name of late) assert.deepEqual(names(s.tell("timer", { timer: name })), []);
    assert.deepEqual(names(s.tell("token", { purpose: "connect", token: "t" })), []);
    assert.deepEqual(names(s.push("chat:lobby", 1)), []);
    assert.equal(only(s.request("m-2"), "reject").error.code, "closed");
  });
});

describe("requests", () => {
  test("an answer resolves the request it names", () => {
    const s = new SessionUnderTest();
    s.open();
    const asked = s.request("m-1", "chat.send", { key: "lobby", ack: true });
    const [envelope] = sent(asked);
    assert.deepEqual(
      { ...envelope },
      {
        msg_id: "m-1",
        timestamp: s.now,
        action: "chat.send",
        data: { text: "hello" },
        version: "1.0",
        key: "lobby",
        ack: true,
      },
    );
    assert.deepEqual(s.answer(asked, { seq: 3 }), [{ do: "resolve", msg_id: "m-1", data: { seq: 3 } }]);
  });

  test("what is not asked for is not sent", () => {
    const s = new SessionUnderTest();
    s.open();
    assert.deepEqual(Object.keys(sent(s.request("m-1"))[0]), ["msg_id", "timestamp", "action", "data", "version"]);
  });

  test("an error rejects it, with all that the server said", () => {
    const s = new SessionUnderTest();
    s.open();
    const { error } = only(
      s.refuse(s.request("m-1"), {
        code: "rate_limited",
        message: "slow down",
        retryable: true,
        retry_after_ms: 250,
        details: { limit: 5 },
        trace_id: "abc",
      }),
      "reject",
    );
    assert.ok(error instanceof TowpathError);
    const { code, message, retryable, retryAfterMs, details, traceId, msgId } = error;
    assert.deepEqual(
      [code, message, retryable, retryAfterMs, details, traceId, msgId],
      ["rate_limited", "slow down", true, 250, { limit: 5 }, "abc", "m-1"],
    );
  });

  test("accepted is told once, and is not the answer", () => {
    const s = new SessionUnderTest();
    s.open();
    const asked = s.request("m-1", "order.submit", { ack: true });
    assert.deepEqual(names(s.hear("accepted", {}, { correlation_id: "m-1" })), ["accepted"]);
    assert.deepEqual(names(s.hear("accepted", {}, { correlation_id: "m-1" })), []);
    assert.deepEqual(names(s.answer(asked)), ["resolve"]);
  });

  test("a late or repeated answer is dropped", () => {
    const s = new SessionUnderTest();
    s.open();
    const asked = s.request("m-1");
    s.answer(asked);
    assert.deepEqual(names(s.answer(asked)), []);
    assert.deepEqual(names(s.refuse(asked, { code: "timeout" })), []);
  });

  test("an error that answers nothing is reported", () => {
    const s = new SessionUnderTest();
    s.open();
    const actions = s.hear("error", { code: "bad_envelope", message: "not JSON", retryable: false });
    assert.equal(only(actions, "report").error.code, "bad_envelope");
  });

  test("requests made before the connection wait for it and leave in order", () => {
    const s = new SessionUnderTest();
    s.tell("start");
    for (const id of ["m-1", "m-2", "m-3"]) assert.deepEqual(sent(s.request(id)), []);
    assert.deepEqual(
      sent(s.open()).map(({ msg_id }) => msg_id),
      ["m-1", "m-2", "m-3"],
    );
  });

  test("what was in flight is sent again after a reconnect, unchanged; what was answered is not", () => {
    const s = new SessionUnderTest();
    s.open();
    const [first] = sent(s.request("m-1"));
    s.answer(s.request("m-2"));
    s.later(3_000).tell("disconnected", { code: 1006, reason: "" });
    s.request("m-3");
    s.tell("timer", { timer: "reconnect" });
    const again = sent(s.hear("session.welcome", {}));
    assert.deepEqual(
      again.map(({ msg_id }) => msg_id),
      ["m-1", "m-3"],
    );
    assert.deepEqual(again[0], first);
  });

  test("the queue is bounded: one too many is refused and says so, those in flight do not count", () => {
    const s = new SessionUnderTest({ queueLimit: 2 });
    s.open();
    s.request("in-flight");
    s.tell("disconnected", { code: 1006, reason: "" });
    s.request("m-1");
    s.request("m-2");
    const { error } = only(s.request("m-3"), "reject");
    assert.deepEqual([error.code, error.retryable, error.details.sent], ["queue_full", true, false]);
    s.tell("abandon", { msg_id: "m-1", error: new TowpathError("aborted", "given up") });
    assert.deepEqual(names(s.request("m-4")), [], "there is room again");
  });

  test("no answer in time says whether the request ever left", () => {
    const s = new SessionUnderTest();
    s.tell("start");
    assert.equal(timer(s.request("m-1", "chat.send", { timeout_ms: 500 }), "request:m-1").max_ms, 500);
    const unsent = only(s.tell("timer", { timer: "request:m-1" }), "reject").error;
    assert.deepEqual([unsent.code, unsent.retryable, unsent.details.sent], ["timeout", true, false]);
    s.open();
    s.request("m-2", "chat.send", { timeout_ms: 500 });
    const unknown = only(s.tell("timer", { timer: "request:m-2" }), "reject").error;
    assert.deepEqual([unknown.code, unknown.retryable, unknown.details], ["timeout", true, undefined]);
  });

  test("an answered request takes its timer with it", () => {
    const s = new SessionUnderTest();
    s.open();
    const actions = s.answer(s.request("m-1", "chat.send", { timeout_ms: 500 }));
    assert.deepEqual(only(actions, "cancel"), { do: "cancel", timer: "request:m-1" });
  });

  test("an abandoned request is not sent after a reconnect", () => {
    const s = new SessionUnderTest();
    s.open();
    s.request("m-1");
    const gone = s.tell("abandon", { msg_id: "m-1", error: new TowpathError("aborted", "given up") });
    assert.equal(only(gone, "reject").error.code, "aborted");
    assert.deepEqual(sent(s.reconnect()), []);
  });

  test("a request over the server's frame limit is refused here, instead of ending the connection", () => {
    const s = new SessionUnderTest();
    s.open({ max_frame_bytes: 1_000 });
    const { error } = only(s.request("m-1", "chat.send", { data: { text: "ü".repeat(500) } }), "reject");
    assert.deepEqual([error.code, error.details.sent], ["payload_too_large", false]);
  });

  test("data that JSON cannot hold is refused here", () => {
    const s = new SessionUnderTest();
    s.open();
    assert.equal(only(s.request("m-1", "chat.send", { data: { n: 1n } }), "reject").error.code, "invalid_data");
  });
});

describe("streams", () => {
  test("pushes leave in order and once", () => {
    const s = new SessionUnderTest();
    s.open();
    const actions = [7, 8, 8, 7, 9].flatMap((seq) => s.push("chat:lobby", seq));
    assert.deepEqual(seqs(actions), [7, 8, 9]);
    assert.deepEqual(s.session.positions, { "chat:lobby": 9 });
  });

  test("pushes without a position pass as they come", () => {
    const s = new SessionUnderTest();
    s.open();
    for (let time = 0; time < 2; time++) {
      assert.equal(only(s.hear("chat.typing", { user: "bob" }), "push").envelope.data.user, "bob");
    }
  });

  test("a hole asks the stream's domain to resume, once, and holds what came after it", () => {
    const s = new SessionUnderTest({ positions: { "chat:lobby": 4, "chat:den": 1, "order:ana": 2 } });
    s.open();
    s.hear("chat.resume.ok", {}, { correlation_id: "s-1" });
    s.hear("order.resume.ok", {}, { correlation_id: "s-2" });
    const asked = [6, 7].flatMap((seq) => s.push("chat:other", seq)).concat(s.push("chat:other", 9));
    assert.deepEqual(seqs(asked), [6, 7]);
    const [request, ...more] = sent(asked);
    assert.equal(request.action, "chat.resume");
    assert.deepEqual(request.data.positions, { "chat:lobby": 4, "chat:den": 1, "chat:other": 7 });
    assert.deepEqual(more, []);
    assert.deepEqual(names(s.push("chat:other", 10)), [], "one resume at a time");
    assert.deepEqual(seqs(s.push("chat:other", 8)), [8, 9, 10]);
    const streams = { "chat:other": { seq: 8, complete: true }, "chat:lobby": { seq: 4, complete: true } };
    const answered = s.answer(asked, { streams: { ...streams, "chat:den": { seq: 1, complete: true } } });
    assert.deepEqual(names(answered), ["cancel"]);
  });

  test("a reconnect resumes every domain that has positions, before requests go out again", () => {
    const s = new SessionUnderTest();
    s.open();
    s.push("chat:lobby", 5);
    s.push("order:ana", 2);
    s.request("m-1");
    const actions = s.reconnect();
    assert.deepEqual(
      sent(actions).map(({ action, data }) => [action, data.positions]),
      [
        ["chat.resume", { "chat:lobby": 5 }],
        ["order.resume", { "order:ana": 2 }],
        ["chat.send", undefined],
      ],
    );
  });

  test("kept positions are resumed on the very first connect", () => {
    const s = new SessionUnderTest({ positions: { "chat:lobby": 5 } });
    assert.deepEqual(sent(s.open())[0].data, { positions: { "chat:lobby": 5 } });
  });

  test("the gateway's hint that pushes may have been missed resumes as well", () => {
    const s = new SessionUnderTest();
    s.open();
    s.push("chat:lobby", 5);
    const actions = s.hear("session.resync", { reason: "broker" });
    assert.deepEqual(sent(actions)[0].data, { positions: { "chat:lobby": 5 } });
  });

  test("the hint overtakes a resume that is under way", () => {
    const s = new SessionUnderTest({ positions: { "chat:lobby": 5 } });
    const first = s.open();
    const second = s.hear("session.resync", { reason: "broker" });
    const streams = { "chat:lobby": { seq: 6, complete: false } };
    assert.deepEqual(names(s.answer(first, { streams })), [], "the later answer counts");
    assert.deepEqual(only(s.answer(second, { streams }), "incomplete"), {
      do: "incomplete",
      stream: "chat:lobby",
      seq: 6,
    });
  });

  test("live pushes that overtake the replay wait for it", () => {
    const s = new SessionUnderTest();
    s.open();
    s.push("chat:lobby", 5);
    const resumed = s.reconnect();
    assert.deepEqual(seqs(s.push("chat:lobby", 8)), []);
    assert.deepEqual(seqs(s.push("chat:lobby", 6)), [6]);
    assert.deepEqual(seqs(s.push("chat:lobby", 7)), [7, 8]);
    assert.deepEqual(seqs(s.answer(resumed, { streams: { "chat:lobby": { seq: 7, complete: true } } })), []);
    assert.deepEqual(s.session.positions, { "chat:lobby": 8 });
  });

  test("what is not kept any more is said, before anything that comes after it", () => {
    const s = new SessionUnderTest();
    s.open();
    s.push("chat:lobby", 5);
    const resumed = s.reconnect();
    s.push("chat:lobby", 90);
    const actions = s.answer(resumed, { streams: { "chat:lobby": { seq: 90, complete: false } } });
    assert.deepEqual(names(actions), ["incomplete", "push", "cancel"]);
    assert.deepEqual(s.session.positions, { "chat:lobby": 90 });
  });

  test("a hole that the resume did not fill is asked for again, with backoff", () => {
    const s = new SessionUnderTest({ positions: { "chat:lobby": 5 } });
    const first = s.open();
    s.push("chat:lobby", 9);
    const answered = s.answer(first, { streams: { "chat:lobby": { seq: 6, complete: true } } });
    assert.deepEqual([timer(answered, "resume:chat").min_ms, timer(answered, "resume:chat").max_ms], [0, 1_000]);
    const second = s.tell("timer", { timer: "resume:chat" });
    assert.deepEqual(sent(second)[0].data.positions, { "chat:lobby": 6 });
    const again = s.answer(second, { streams: { "chat:lobby": { seq: 6, complete: true } } });
    assert.equal(timer(again, "resume:chat").max_ms, 2_000);
  });

  test("a resume that fails for a while is tried again, not before the server's advice", () => {
    const s = new SessionUnderTest({ positions: { "chat:lobby": 5 } });
    const refused = s.refuse(s.open(), { code: "unavailable", retryable: true, retry_after_ms: 700 });
    assert.equal(timer(refused, "resume:chat").min_ms, 700);
    assert.equal(sent(s.tell("timer", { timer: "resume:chat" }))[0].action, "chat.resume");
  });

  test("a resume without an answer is asked again", () => {
    const s = new SessionUnderTest({ positions: { "chat:lobby": 5 } });
    assert.equal(timer(s.open(), "resume:chat").min_ms, 30_000);
    const again = s.tell("timer", { timer: "resume:chat" });
    assert.equal(sent(again)[0].action, "chat.resume");
  });

  test("a domain that cannot resume is said to be incomplete, and nothing is held back", () => {
    const s = new SessionUnderTest({ positions: { "chat:lobby": 5 } });
    const first = s.open();
    s.push("chat:lobby", 9);
    const actions = s.refuse(first, { code: "unknown_action", message: "no such verb", retryable: false });
    assert.deepEqual(names(actions), ["report", "incomplete", "push", "cancel"]);
    assert.deepEqual(seqs(actions), [9]);
  });

  test("an answer that leaves a stream out, or makes no sense, counts as incomplete", () => {
    for (const data of [{}, { streams: [] }, { streams: { "chat:lobby": null } }, { streams: { "chat:lobby": {} } }]) {
      const s = new SessionUnderTest({ positions: { "chat:lobby": 5 } });
      assert.equal(only(s.answer(s.open(), data), "incomplete").stream, "chat:lobby");
    }
  });

  test("a tracked stream is resumed after a reconnect, a forgotten one is not", () => {
    const s = new SessionUnderTest();
    s.open();
    s.tell("track", { stream: "chat:lobby", seq: 3 });
    s.tell("track", { stream: "chat:den", seq: 8 });
    s.tell("forget", { stream: "chat:den" });
    assert.deepEqual(sent(s.reconnect())[0].data.positions, { "chat:lobby": 3 });
  });

  test("the application may ask by itself", () => {
    const s = new SessionUnderTest();
    s.open();
    s.tell("track", { stream: "chat:lobby", seq: 3 });
    assert.deepEqual(sent(s.tell("resume", { domain: "chat" }))[0].data.positions, { "chat:lobby": 3 });
    assert.deepEqual(sent(s.tell("resume", { domain: "order" })), []);
  });

  test("forgetting the only stream of a domain does not block its next resume", () => {
    const s = new SessionUnderTest({ positions: { "chat:lobby": 3 } });
    s.open();
    s.tell("forget", { stream: "chat:lobby" });
    s.tell("timer", { timer: "resume:chat" });
    s.push("chat:den", 1);
    assert.equal(sent(s.push("chat:den", 5))[0].action, "chat.resume");
  });

  test("many streams are asked for in several requests", () => {
    const positions = Object.fromEntries(Array.from({ length: 450 }, (_, n) => [`chat:room-${n}`, n]));
    const s = new SessionUnderTest({ positions });
    const counts = sent(s.open()).map(({ data }) => Object.keys(data.positions).length);
    assert.deepEqual(counts, [200, 200, 50]);
  });
});

describe("heartbeat", () => {
  test("two silent heartbeats bring a ping, any frame in between puts it off", () => {
    const s = new SessionUnderTest();
    assert.equal(timer(s.open(), "quiet").max_ms, 50_000);
    s.later(30_000).hear("chat.typing");
    const early = s.later(20_000).tell("timer", { timer: "quiet" });
    assert.deepEqual([names(early), timer(early, "quiet").max_ms], [["timer"], 30_000]);
    const silent = s.later(30_000).tell("timer", { timer: "quiet" });
    assert.equal(sent(silent)[0].action, "ping");
    assert.equal(timer(silent, "pong").max_ms, 5_000);
  });

  test("the pong, or anything else, proves that the connection lives", () => {
    const s = new SessionUnderTest();
    s.open();
    const pinged = s.later(50_000).tell("timer", { timer: "quiet" });
    const actions = s.later(1_000).hear("pong", {}, { correlation_id: sent(pinged)[0].msg_id });
    assert.deepEqual(names(actions), ["cancel", "timer"]);
    assert.equal(s.session.state, "open");
  });

  test("silence after the ping drops the connection at once and reconnects", () => {
    const s = new SessionUnderTest();
    s.open();
    s.later(50_000).tell("timer", { timer: "quiet" });
    const actions = s.later(5_000).tell("timer", { timer: "pong" });
    assert.equal(only(actions, "disconnect").code, 4002);
    assert.equal(only(actions, "state").state, "recovering");
    assert.ok(timer(actions, "reconnect"));
  });

  test("a clock that is set back does not stretch the silence", () => {
    const s = new SessionUnderTest();
    s.open();
    assert.equal(timer(s.later(-3_600_000).tell("timer", { timer: "quiet" }), "quiet").max_ms, 50_000);
  });
});

describe("tokens", () => {
  test("before it expires a token is swapped in place, and the new one serves later connects", () => {
    const s = new SessionUnderTest();
    s.open();
    assert.ok(asks(s.hear("session.expiring", { expires_at: 1 }), "refresh"));
    const refreshed = s.tell("token", { purpose: "refresh", token: "t-9" });
    assert.deepEqual([sent(refreshed)[0].action, sent(refreshed)[0].data], ["session.refresh", { token: "t-9" }]);
    s.answer(refreshed, { expires_at: 2 });
    s.tell("disconnected", { code: 1006, reason: "" });
    assert.equal(only(s.tell("timer", { timer: "reconnect" }), "connect").token, "t-9");
  });

  test("a refresh that fails is tried again while the old token lasts", () => {
    const s = new SessionUnderTest();
    s.open();
    s.hear("session.expiring", { expires_at: 1 });
    const error = new TowpathError("no_token", "token() failed", { retryable: true });
    const actions = s.tell("token_failed", { purpose: "refresh", error });
    assert.equal(only(actions, "report").error, error);
    assert.ok(timer(actions, "refresh"));
    assert.ok(asks(s.tell("timer", { timer: "refresh" }), "refresh"));
  });

  test("a refresh that the server refuses is reported", () => {
    const s = new SessionUnderTest();
    s.open();
    const refreshed = s.tell("token", { purpose: "refresh", token: "t-9" });
    const actions = s.refuse(refreshed, { code: "forbidden", message: "another user", retryable: false });
    assert.equal(only(actions, "report").error.code, "forbidden");
    assert.equal(s.session.state, "open");
  });
});

describe("a server that answers nonsense", () => {
  const nonsense = ["", "{", "null", "[]", "7", '"text"', "{}", '{"action":5,"data":{}}', '{"action":"a.b"}'];

  for (const text of [...nonsense, undefined, new Uint8Array(3)]) {
    test(`${JSON.stringify(text)} is reported, and the session goes on`, () => {
      const s = new SessionUnderTest();
      s.open();
      assert.equal(only(s.tell("frame", { text }), "report").error.code, "bad_frame");
      assert.equal(s.session.state, "open");
    });
  }

  test("odd fields are taken for what they are", () => {
    const s = new SessionUnderTest();
    s.open({ heartbeat_ms: "often", max_frame_bytes: {} });
    assert.deepEqual(names(s.hear("chat.message", {}, { stream: "chat:lobby", seq: "1" })), ["push"]);
    assert.deepEqual(names(s.hear("chat.message", {}, { stream: 5, seq: 1 })), ["push"]);
    assert.equal(only(s.refuse(s.request("m-1"), { code: 7, details: "x" }), "reject").error.code, "internal");
    assert.deepEqual(names(s.hear("constructor.call")), ["push"]);
    assert.deepEqual(s.session.positions, {});
  });
});
