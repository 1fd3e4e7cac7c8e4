/**
 * Requests that wait for their final answer, in the order they were made. No I/O.
 *
 * While there is a connection a request leaves at once. Otherwise it waits, up to a limit; with the next connection
 * everything unanswered leaves again in the old order, with the same `msg_id`, so that its effect happens once.
 *
 * @typedef {{msg_id: string, action: string, text: string, bytes: number, timed: boolean}} Request
 *   `timed` says that a timer `request:<msg_id>` belongs to it.
 */
import { TowpathError } from "./errors.js";

export class Requests {
  /** @type {Map<string, Request & {sent: boolean, accepted: boolean}>} */
  #pending = new Map();
  #open = false;
  #maxBytes = Infinity;
  #limit;
  #act;

  /**
   * @param {number} limit How many may wait that have never been sent.
   * @param {(action: object) => void} act
   */
  constructor(limit, act) {
    this.#limit = limit;
    this.#act = act;
  }

  /** @param {string} msgId */
  has(msgId) {
    return this.#pending.has(msgId);
  }

  /** @param {Request} request */
  add(request) {
    const entry = { ...request, sent: false, accepted: false };
    if (!this.#open && this.#waiting() >= this.#limit) {
      const message = `No connection, and ${this.#limit} requests wait for one already. Try again once it is open.`;
      const error = new TowpathError("queue_full", message, {
        retryable: true,
        msgId: request.msg_id,
        details: { sent: false, limit: this.#limit },
      });
      return this.#act({ do: "reject", msg_id: request.msg_id, error });
    }
    this.#pending.set(request.msg_id, entry);
    if (this.#open) this.#send(entry);
  }

  /**
   * A connection is there: send what is unanswered.
   *
   * @param {unknown} maxBytes The server's largest frame.
   */
  open(maxBytes) {
    this.#open = true;
    this.#maxBytes = typeof maxBytes === "number" && maxBytes > 0 ? maxBytes : Infinity;
    for (const entry of [...this.#pending.values()]) this.#send(entry);
  }

  /** The connection is gone: keep what is unanswered. */
  hold() {
    this.#open = false;
  }

  /**
   * Takes an answer if it is one to a request here; says whether it was.
   *
   * @param {Record<string, any>} envelope
   */
  answer({ action, correlation_id: id, data }) {
    const entry = this.#pending.get(id);
    if (entry === undefined) return false;
    if (action === "error") this.reject(id, TowpathError.fromWire(data, id));
    else if (action === `${entry.action}.ok` || (entry.action === "ping" && action === "pong")) {
      this.#take(entry);
      this.#act({ do: "resolve", msg_id: id, data });
    } else if (action === "accepted") {
      if (!entry.accepted) this.#act({ do: "accepted", msg_id: id });
      entry.accepted = true;
    } else return false;
    return true;
  }

  /** @param {string} msgId */
  timeUp(msgId) {
    const entry = this.#pending.get(msgId);
    if (entry === undefined) return;
    const message = entry.sent
      ? `No answer to ${entry.action} in time. Whether it was done is unknown; ask again with the same msgId.`
      : `No connection in time to send ${entry.action}.`;
    this.reject(msgId, new TowpathError("timeout", message, { retryable: true }));
  }

  /**
   * @param {string} msgId
   * @param {TowpathError} error
   */
  reject(msgId, error) {
    const entry = this.#pending.get(msgId);
    if (entry === undefined) return;
    this.#take(entry);
    error.msgId ??= msgId;
    if (!entry.sent) error.details = { ...error.details, sent: false };
    this.#act({ do: "reject", msg_id: msgId, error });
  }

  /**
   * No connection will come any more.
   *
   * @param {TowpathError} reason
   */
  end({ code, message, details }) {
    for (const msgId of [...this.#pending.keys()]) this.reject(msgId, new TowpathError(code, message, { details }));
  }

  /** @param {Request & {sent: boolean}} entry */
  #send(entry) {
    if (entry.bytes > this.#maxBytes) {
      const message = `${entry.action} takes ${entry.bytes} bytes; the server takes ${this.#maxBytes} a frame.`;
      return this.reject(entry.msg_id, new TowpathError("payload_too_large", message));
    }
    entry.sent = true;
    this.#act({ do: "send", text: entry.text });
  }

  /** @param {Request} entry */
  #take(entry) {
    this.#pending.delete(entry.msg_id);
    if (entry.timed) this.#act({ do: "cancel", timer: `request:${entry.msg_id}` });
  }

  #waiting() {
    let waiting = 0;
    for (const { sent } of this.#pending.values()) if (!sent) waiting += 1;
    return waiting;
  }
}
