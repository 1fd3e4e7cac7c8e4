/** The network's far side: a WebSocket class whose sockets the test opens, feeds and closes. */
import { WELCOME, frame } from "./session-under-test.js";

export class Network {
  /** @type {FakeSocket[]} */
  sockets = [];

  constructor() {
    const { sockets } = this;
    this.WebSocket = class extends FakeSocket {
      constructor(url, protocols) {
        super(url, protocols);
        sockets.push(this);
      }
    };
  }

  /** The newest socket. */
  get socket() {
    return this.sockets.at(-1);
  }
}

class FakeSocket {
  readyState = 0;
  onmessage = null;
  onclose = null;
  onerror = null;
  /** @type {any[]} envelopes that the client sent */
  sent = [];
  /** @type {[number, string] | null} how the client closed it */
  closed = null;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text) {
    if (this.readyState !== 1) throw new Error("InvalidStateError");
    this.sent.push(JSON.parse(text));
  }

  close(code, reason) {
    this.readyState = 2;
    this.closed = [code, reason];
  }

  welcome(data = {}) {
    this.readyState = 1;
    this.says("session.welcome", { ...WELCOME, ...data });
  }

  says(action, data, fields) {
    this.onmessage?.({ data: frame(action, data, fields) });
  }

  /** Answers the last request that was sent. */
  answers(data = {}) {
    const { action, msg_id } = this.sent.at(-1);
    this.says(`${action}.ok`, data, { correlation_id: msg_id });
  }

  breaks(code = 1006, reason = "") {
    this.readyState = 3;
    this.onerror?.({});
    this.onclose?.({ code, reason });
  }
}

/** Lets promises that are due go on. */
export async function settle() {
  for (let turn = 0; turn < 10; turn++) await null;
}
