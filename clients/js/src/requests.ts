/**
 * Requests that wait for their final answer, in the order they were made. No I/O.
 *
 * While there is a connection a request leaves at once. Otherwise it waits, up to a limit; with the next connection
 * everything unanswered leaves again in the old order, with the same `msg_id`, so that its effect happens once.
 */
import { byteLength } from "./envelope.js";
import type { Envelope } from "./envelope.js";
import { TowpathError, positive } from "./errors.js";
import type { Action } from "./events.js";

export interface Request {
  msg_id: string;
  action: string;
  text: string;
  /** The stream whose position its answer says. */
  stream: string | undefined;
}

interface Pending extends Request {
  /** How often it left. */
  sent: number;
  accepted: boolean;
}

/**
 * A request with the position of `stream` has ended. `seq` is the answer's value, of any type; `again` is true when it
 * was sent more than once, so that the answer may be the one of the first time.
 */
type Settled = (stream: string, seq?: unknown, again?: boolean) => void;

export class Requests {
  readonly #pending = new Map<string, Pending>();
  #open = false;
  #maxBytes = Infinity;
  readonly #limit: number;
  readonly #act: (action: Action) => void;
  readonly #settled: Settled;

  /**
   * @param limit How many may wait that have never been sent.
   * @param act Puts an action out; `cancel` of a timer that is not set is none.
   */
  constructor(limit: number, act: (action: Action) => void, settled: Settled) {
    this.#limit = limit;
    this.#act = act;
    this.#settled = settled;
  }

  has(msgId: string): boolean {
    return this.#pending.has(msgId);
  }

  add(request: Request): void {
    if (!this.#open && this.#waiting() >= this.#limit) {
      const message = `${this.#limit} requests wait for a connection already.`;
      const more = { retryable: true, details: { limit: this.#limit } };
      return this.refuse(request.msg_id, new TowpathError("queue_full", message, more));
    }
    const entry = { ...request, sent: 0, accepted: false };
    this.#pending.set(request.msg_id, entry);
    if (this.#open) this.#send(entry);
  }

  /**
   * A connection is there: send what is unanswered.
   *
   * @param maxBytes The server's largest frame, if it makes sense.
   */
  open(maxBytes: unknown): void {
    this.#open = true;
    this.#maxBytes = positive(maxBytes) ?? Infinity;
    for (const entry of [...this.#pending.values()]) this.#send(entry);
  }

  /** The connection is gone: keep what is unanswered. */
  hold(): void {
    this.#open = false;
  }

  /** Takes an answer if it is one to a request here; says whether it was. */
  answer({ action, correlation_id: id, data }: Envelope): boolean {
    const entry = this.#pending.get(id as string);
    if (!entry) return false;
    if (action === "error") this.reject(entry.msg_id, TowpathError.fromWire(data));
    else if (action === `${entry.action}.ok` || (entry.action === "ping" && action === "pong")) {
      this.#take(entry);
      this.#act({ do: "resolve", msg_id: entry.msg_id, data });
      if (entry.stream !== undefined) this.#settled(entry.stream, data["seq"], entry.sent > 1);
    } else if (action === "accepted") {
      if (!entry.accepted) this.#act({ do: "accepted", msg_id: entry.msg_id });
      entry.accepted = true;
    } else return false;
    return true;
  }

  /** @param lastAttempt How the last attempt to connect ended, as the end of a sentence. */
  timeUp(msgId: string, lastAttempt: string): void {
    const entry = this.#pending.get(msgId);
    if (!entry) return;
    const { action, sent } = entry;
    const unknown = `No answer to ${action} in time. The outcome is unknown: ask again with the same id.`;
    const unsent = `No connection in time to send ${action}${lastAttempt}.`;
    this.reject(msgId, new TowpathError("timeout", sent ? unknown : unsent, { retryable: true }));
  }

  reject(msgId: string, error: TowpathError): void {
    const entry = this.#pending.get(msgId);
    if (!entry) return;
    this.#take(entry);
    this.refuse(msgId, error, entry.sent);
    if (entry.stream !== undefined) this.#settled(entry.stream);
  }

  /** Rejects a request that is not kept here; one that never left had no effect for certain. */
  refuse(msg_id: string, error: TowpathError, sent = 0): void {
    error.msgId ??= msg_id;
    if (!sent) error.details = { ...error.details, sent: false };
    this.#act({ do: "reject", msg_id, error });
  }

  /** Later answers no longer set the position of this stream. */
  forget(stream: string): void {
    for (const entry of this.#pending.values()) if (entry.stream === stream) entry.stream = undefined;
  }

  /** No connection will come any more. */
  end({ code, message, details }: TowpathError): void {
    for (const msgId of [...this.#pending.keys()]) this.reject(msgId, new TowpathError(code, message, { details }));
  }

  #send(entry: Pending): void {
    const bytes = byteLength(entry.text);
    if (bytes > this.#maxBytes) {
      const message = `${entry.action} takes ${bytes} bytes; the server takes ${this.#maxBytes} a frame.`;
      return this.reject(entry.msg_id, new TowpathError("payload_too_large", message));
    }
    entry.sent += 1;
    this.#act({ do: "send", text: entry.text });
  }

  #take(entry: Pending): void {
    this.#pending.delete(entry.msg_id);
    this.#act({ do: "cancel", timer: `request:${entry.msg_id}` });
  }

  #waiting(): number {
    return [...this.#pending.values()].filter((entry) => !entry.sent).length;
  }
}
