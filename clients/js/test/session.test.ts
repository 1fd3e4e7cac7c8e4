/** Cases beyond the vectors: things that only JavaScript has, or that take too many steps to write down. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { Session } from "../src/session.js";
import type { Action, Event } from "../src/events.js";
import { frame } from "./network.js";

class SessionUnderTest {
  now = 1_000_000;
  readonly session: Session;

  constructor(positions: Record<string, number> = {}, queueLimit = 256) {
    this.session = new Session({ urls: ["ws://one/ws"], idPrefix: "s", positions, queueLimit });
  }

  tell(event: Event): Action[] {
    return this.session.handle(event, this.now);
  }

  open(): Action[] {
    this.tell({ type: "start" });
    this.tell({ type: "token", purpose: "connect", token: "t-1" });
    return this.hear("session.welcome", {});
  }

  hear(action: string, data?: object, fields?: object): Action[] {
    return this.tell({ type: "frame", text: frame(action, data, fields) });
  }

  request(msg_id: string, fields: object = {}): Action[] {
    return this.tell({ type: "request", msg_id, action: "chat.send", data: {}, ...fields });
  }

  lose(): Action[] {
    return this.tell({ type: "disconnected", code: 1006, reason: "" });
  }
}

const sent = (actions: Action[]) =>
  actions.flatMap((action) => (action.do === "send" ? [JSON.parse(action.text)] : []));
const errors = (actions: Action[]) =>
  actions.flatMap((action) => ("error" in action && action.error ? [action.error] : []));

describe("a request", () => {
  test("has no field that was not asked for", () => {
    const s = new SessionUnderTest();
    s.open();
    assert.deepEqual(Object.keys(sent(s.request("m-1"))[0]), ["msg_id", "timestamp", "action", "data", "version"]);
  });

  test("is sent again as it was, to the letter", () => {
    const s = new SessionUnderTest();
    s.open();
    const first = s.request("m-1", { key: "lobby", ack: true });
    s.now += 3_000;
    s.lose();
    s.tell({ type: "timer", timer: "reconnect" });
    const again = s.hear("session.welcome");
    assert.deepEqual(sent(again), sent(first));
  });

  test("with data that JSON cannot hold is refused here", () => {
    const s = new SessionUnderTest();
    s.open();
    const cycle: Record<string, unknown> = {};
    cycle["itself"] = cycle;
    for (const data of [{ n: 1n }, cycle]) {
      const [error] = errors(s.request("m-1", { data }));
      assert.deepEqual([error?.code, error?.details], ["invalid_data", { sent: false }]);
    }
  });

  test("that never left says how the last attempt to connect ended", () => {
    const s = new SessionUnderTest();
    const messages = () => {
      s.request("m-1", { timeout_ms: 500 });
      return errors(s.tell({ type: "timer", timer: "request:m-1" })).map(({ message }) => message);
    };
    s.tell({ type: "start" });
    assert.deepEqual(messages(), ["No connection in time to send chat.send."]);
    s.tell({ type: "token", purpose: "connect", token: "t-1" });
    s.tell({ type: "disconnected", code: 1006, reason: "", status: 403 });
    assert.deepEqual(messages(), ["No connection in time to send chat.send; the last attempt: HTTP 403."]);
    s.tell({ type: "timer", timer: "reconnect" });
    s.tell({ type: "token", purpose: "connect", token: "t-1" });
    s.tell({ type: "disconnected", code: 1006, reason: "connect ECONNREFUSED." });
    assert.match(messages()[0] ?? "", /the last attempt: 1006: connect ECONNREFUSED\.$/);
  });
});

test("a refusal has the server's message", () => {
  const s = new SessionUnderTest();
  s.tell({ type: "start" });
  s.tell({ type: "token", purpose: "connect", token: "t-1" });
  const [error] = errors(s.tell({ type: "disconnected", code: 1006, reason: "", status: 403 }));
  assert.equal(error?.message, "The server refused the connection: HTTP 403.");
  const closed = errors(s.tell({ type: "close" }));
  assert.deepEqual(closed.map(({ message }) => message), ["The client was closed."]);
});

test("many streams are asked for in several requests", () => {
  const positions = Object.fromEntries(Array.from({ length: 450 }, (_, n) => [`chat:room-${n}`, n]));
  const counts = sent(new SessionUnderTest(positions).open()).map(({ data }) => Object.keys(data.positions).length);
  assert.deepEqual(counts, [200, 200, 50]);
});

test("several resumes of one domain end together", () => {
  const positions = Object.fromEntries(Array.from({ length: 250 }, (_, n) => [`chat:room-${n}`, n]));
  const s = new SessionUnderTest(positions);
  const [first, second] = sent(s.open());
  const answer = ({ msg_id, data }: any) => {
    const streams = Object.entries(data.positions).map(([name, seq]) => [name, { seq, complete: true }]);
    return s.hear("chat.resume.ok", { streams: Object.fromEntries(streams) }, { correlation_id: msg_id });
  };
  assert.deepEqual(answer(second), []);
  assert.deepEqual(answer(first), [{ do: "cancel", timer: "resume:chat" }]);
});

const SEQS = [1, 2, 3, 4, 5, 6, 7, 8, 9];
const NO_TEXT = { nothing: undefined, bytes: new Uint8Array(3), "a blob": new Blob(["{}"]) };

for (const [name, text] of Object.entries(NO_TEXT)) {
  test(`${name} instead of text is reported, and the session goes on`, () => {
    const s = new SessionUnderTest();
    s.open();
    assert.deepEqual(errors(s.tell({ type: "frame", text })).map(({ code }) => code), ["bad_frame"]);
    assert.equal(s.session.state, "open");
  });
}

test("whatever happens in whatever order, every request ends once and no timer is left", () => {
  let random = 7;
  const draw = <Value>(values: Value[]): Value => {
    random = (random * 48_271) % 2_147_483_647;
    return values[random % values.length] as Value;
  };
  for (let round = 0; round < 300; round++) {
    const s = new SessionUnderTest({}, 5);
    const made = new Set<string>();
    const ended: string[] = [];
    const timers = new Set<string>();
    const seen: number[] = [];
    const tell = (event: Event) => {
      for (const action of s.tell(event)) {
        if (action.do === "timer") timers.add(action.timer);
        if (action.do === "cancel") assert.ok(timers.delete(action.timer), `${action.timer} was not set`);
        if (action.do === "resolve" || action.do === "reject") ended.push(action.msg_id);
        if (action.do === "push" && action.envelope.stream) seen.push(action.envelope.seq as number);
      }
    };
    tell({ type: "start" });
    for (let step = 0; step < 60; step++) {
      const id = `m-${step}`;
      const old = draw([...made, "m-0"]);
      const request = { type: "request", msg_id: id, action: "chat.join", data: {}, timeout_ms: 500 } as const;
      const stream = "chat:lobby";
      draw([
        () => (made.add(id), tell(request)),
        () => (made.add(id), tell({ ...request, stream })),
        () => tell({ type: "frame", text: frame("chat.join.ok", { seq: step }, { correlation_id: old }) }),
        () => tell({ type: "frame", text: frame("error", { code: "busy" }, { correlation_id: old }) }),
        () => tell({ type: "frame", text: frame("session.welcome") }),
        () => tell({ type: "frame", text: frame("chat.message", {}, { stream, seq: draw(SEQS) }) }),
        () => tell({ type: "token", purpose: "connect", token: "t" }),
        () => tell({ type: "disconnected", code: draw([1006, 1012, 4003]), reason: "" }),
        () => tell({ type: "abandon", msg_id: old, error: errors(new SessionUnderTest().tell({ type: "close" }))[0]! }),
        () => {
          const timer = draw([...timers, "quiet"]);
          timers.delete(timer);
          tell({ type: "timer", timer });
        },
      ])();
    }
    tell({ type: "close" });
    assert.deepEqual(ended.sort(), [...made].sort());
    assert.deepEqual([...timers], [], "nothing is left to go off");
    assert.deepEqual(seen, [...new Set(seen)].sort((a, b) => a - b), "pushes in order and once");
  }
});
