/**
 * Resuming: which streams to ask for, when to ask again, and what the answers mean. No I/O.
 *
 * Asks `<domain>.resume` for every domain with positions after each (re)connect and on `session.resync`, and for
 * one domain when a push of it shows a hole. Until every hole of a domain is filled it keeps asking, with backoff.
 *
 * @typedef {Record<string, any>} Envelope
 * @typedef {{act: (action: object) => void, send: (action: string, data: object) => string}} Link
 *   `act` puts an action out, `send` sends a request of the session itself and returns its `msg_id`.
 */
import { TowpathError, isObject } from "./errors.js";
import { Positions, domainOf } from "./positions.js";
import { backoff } from "./reconnect.js";

/** Streams of one request; the server takes 1000, and names may be long. */
const STREAMS_A_REQUEST = 200;

/** A resume waits in the broker while its service is down, so there is no hurry to ask again. */
const ANSWER_TIME_MS = 30_000;

export class Resumption {
  /** @type {Positions<Envelope>} */
  positions;
  /** @type {Map<string, {domain: string, asked: Map<string, number>}>} requests under way, by `msg_id` */
  #asked = new Map();
  /** @type {Map<string, number>} failed tries of each domain with a timer set */
  #tries = new Map();
  #link;

  /**
   * @param {Record<string, number>} positions
   * @param {Link} link
   */
  constructor(positions, link) {
    this.positions = new Positions(positions);
    this.#link = link;
  }

  /** Asks for every domain. */
  all() {
    for (const domain of this.positions.domains()) this.domain(domain);
  }

  /**
   * Asks for one domain; what is under way for it is overtaken.
   *
   * @param {string} domain
   */
  domain(domain) {
    for (const [msgId, request] of this.#asked) if (request.domain === domain) this.#asked.delete(msgId);
    const streams = this.positions.ofDomain(domain);
    if (streams.length === 0) return this.#settled(domain);
    for (let from = 0; from < streams.length; from += STREAMS_A_REQUEST) {
      const asked = new Map(streams.slice(from, from + STREAMS_A_REQUEST));
      const msgId = this.#link.send(`${domain}.resume`, { positions: Object.fromEntries(asked) });
      this.#asked.set(msgId, { domain, asked });
    }
    this.#wait(domain, ANSWER_TIME_MS, ANSWER_TIME_MS);
  }

  /** The connection is gone, and with it whatever was asked on it. */
  stop() {
    for (const domain of this.#tries.keys()) this.#link.act({ do: "cancel", timer: `resume:${domain}` });
    this.#tries.clear();
    this.#asked.clear();
  }

  /**
   * No answer in time, or the wait before another try is over.
   *
   * @param {string} domain
   */
  timeUp(domain) {
    this.#tries.set(domain, (this.#tries.get(domain) ?? 0) + 1);
    this.domain(domain);
  }

  /**
   * A durable push came in.
   *
   * @param {Envelope} push
   */
  arrive(push) {
    const { verdict, ready } = this.positions.arrive(push.stream, push.seq, push);
    this.#pass(ready);
    const domain = domainOf(push.stream);
    if (verdict === "hole" && !this.#tries.has(domain)) this.domain(domain);
  }

  /**
   * Takes an answer if it is one to a resume; says whether it was.
   *
   * @param {Envelope} answer
   */
  answer(answer) {
    const request = this.#asked.get(answer.correlation_id);
    if (!request || answer.action === "accepted") return request !== undefined;
    this.#asked.delete(answer.correlation_id);
    if (answer.action === "error") this.#refused(request, TowpathError.fromWire(answer.data));
    else this.#resumed(request, isObject(answer.data.streams) ? answer.data.streams : {});
    return true;
  }

  /**
   * @param {{domain: string, asked: Map<string, number>}} request
   * @param {Record<string, any>} streams
   */
  #resumed({ domain, asked }, streams) {
    for (const [stream, position] of asked) {
      const told = Object.hasOwn(streams, stream) ? streams[stream] : undefined;
      if (!Number.isSafeInteger(told?.seq)) {
        this.#giveUp(stream);
        continue;
      }
      const { ready, complete } = this.positions.resumed(stream, position, told);
      if (!complete) this.#link.act({ do: "incomplete", stream, seq: told.seq });
      this.#pass(ready);
    }
    if (this.#underWay(domain)) return;
    if (this.positions.hasHole(domain)) this.#later(domain);
    else this.#settled(domain);
  }

  /**
   * @param {{domain: string, asked: Map<string, number>}} request
   * @param {TowpathError} error
   */
  #refused({ domain, asked }, error) {
    if (error.retryable) return this.#later(domain, error.retryAfterMs);
    this.#link.act({ do: "report", error });
    for (const stream of asked.keys()) this.#giveUp(stream);
    if (!this.#underWay(domain)) this.#settled(domain);
  }

  /** @param {string} domain */
  #settled(domain) {
    if (this.#tries.delete(domain)) this.#link.act({ do: "cancel", timer: `resume:${domain}` });
  }

  /**
   * Nobody can tell what was missed in this stream: say so, and hold nothing back.
   *
   * @param {string} stream
   */
  #giveUp(stream) {
    const ready = this.positions.skip(stream);
    this.#link.act({ do: "incomplete", stream, seq: null });
    this.#pass(ready);
  }

  /**
   * @param {string} domain
   * @param {number} [adviceMs]
   */
  #later(domain, adviceMs) {
    const { min_ms, max_ms } = backoff(this.#tries.get(domain) ?? 0, adviceMs);
    this.#wait(domain, min_ms, max_ms);
  }

  /**
   * @param {string} domain
   * @param {number} min_ms
   * @param {number} max_ms
   */
  #wait(domain, min_ms, max_ms) {
    this.#tries.set(domain, this.#tries.get(domain) ?? 0);
    this.#link.act({ do: "timer", timer: `resume:${domain}`, min_ms, max_ms });
  }

  /** @param {string} domain */
  #underWay(domain) {
    return [...this.#asked.values()].some((request) => request.domain === domain);
  }

  /** @param {Envelope[]} pushes */
  #pass(pushes) {
    for (const envelope of pushes) this.#link.act({ do: "push", envelope });
  }
}
