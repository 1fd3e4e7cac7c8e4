/** A session with a clock of its own, and builders for what the server says. */
import { Session } from "../src/session.js";

let frames = 0;

/** @param {string} action @param {object} [data] @param {object} [fields] */
export function frame(action, data = {}, fields = {}) {
  return JSON.stringify({ msg_id: `srv-${(frames += 1)}`, timestamp: 0, action, data, version: "1.0", ...fields });
}

export const WELCOME = {
  connection_id: "c-1",
  user_id: "ana",
  gateway_id: "gw-1",
  server_time: 0,
  heartbeat_ms: 25_000,
  max_frame_bytes: 65_536,
  version: "1.0",
};

export class SessionUnderTest {
  now = 1_000_000;

  constructor(options = {}) {
    this.session = new Session({ urls: ["ws://one/ws"], idPrefix: "s", ...options });
  }

  /** Gives an event and returns the actions. */
  tell(type, fields = {}) {
    return this.session.handle({ type, ...fields }, this.now);
  }

  later(ms) {
    this.now += ms;
    return this;
  }

  /** Connects, up to the welcome; returns what follows it. */
  open(welcome = {}) {
    this.tell("start");
    this.tell("token", { purpose: "connect", token: "t-1" });
    return this.hear("session.welcome", { ...WELCOME, ...welcome });
  }

  /** Loses the connection and comes back; returns what follows the new welcome. */
  reconnect(code = 1006) {
    this.tell("disconnected", { code, reason: "" });
    const begun = this.tell("timer", { timer: "reconnect" });
    if (asks(begun, "connect")) this.tell("token", { purpose: "connect", token: "t-2" });
    return this.hear("session.welcome", WELCOME);
  }

  hear(action, data, fields) {
    return this.tell("frame", { text: frame(action, data, fields) });
  }

  /** A durable push. */
  push(stream, seq, data = {}) {
    return this.hear("chat.message", data, { stream, seq });
  }

  /** Answers the last request that `actions` sent. */
  answer(actions, data = {}) {
    const { action, msg_id } = sent(actions).at(-1);
    return this.hear(`${action}.ok`, data, { correlation_id: msg_id });
  }

  refuse(actions, data) {
    return this.hear("error", data, { correlation_id: sent(actions).at(-1).msg_id });
  }

  request(msg_id, action = "chat.send", fields = {}) {
    return this.tell("request", { msg_id, action, data: { text: "hello" }, ...fields });
  }
}

/** Names of the actions, such as `["state", "send"]`. */
export const names = (actions) => actions.map((action) => action.do);

/** The one action called `name`. */
export const only = (actions, name) => {
  const found = actions.filter((action) => action.do === name);
  if (found.length !== 1) throw new Error(`${found.length} actions ${name} among ${JSON.stringify(names(actions))}`);
  return found[0];
};

/** Envelopes that were sent. */
export const sent = (actions) =>
  actions.filter((action) => action.do === "send").map((action) => JSON.parse(action.text));

/** `seq` of the pushes that were put out. */
export const seqs = (actions) => actions.filter((action) => action.do === "push").map((action) => action.envelope.seq);

export const asks = (actions, purpose) =>
  actions.some((action) => action.do === "fetch_token" && action.purpose === purpose);

export const timer = (actions, name) => actions.find((action) => action.do === "timer" && action.timer === name);
