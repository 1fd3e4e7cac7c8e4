/**
 * Resuming: which streams to ask for, when to ask again, and what the answers mean. No I/O.
 *
 * Asks `<domain>.resume` for every domain with positions after each (re)connect and on `session.resync`, and for
 * one domain when a push of it shows a hole. Until every hole of a domain is filled it keeps asking, with backoff.
 */
import type { DurablePush, Envelope } from "./envelope.js";
import { TowpathError, isObject } from "./errors.js";
import { Positions, domainOf, isPosition } from "./positions.js";
import { advised, backoff } from "./reconnect.js";
import type { Wait } from "./reconnect.js";
import type { Action } from "./events.js";
import { RESUME_TIME_MS } from "./times.js";
import { Views } from "./views.js";

/** Streams of one request; the server takes 1000, and names may be long. */
const STREAMS_A_REQUEST = 200;

/** A resume under way: the positions it was asked with. */
interface Asked {
  domain: string;
  asked: Map<string, number>;
}

export class Resumption {
  /** The views of the streams. */
  readonly views: Views;
  readonly #positions: Positions<DurablePush>;
  /** By `msg_id`. */
  readonly #asked = new Map<string, Asked>();
  /** Failed tries of each domain with a timer set. */
  readonly #tries = new Map<string, number>();
  /** Streams that this connection has subscribed to, or has asked for. */
  readonly #followed = new Set<string>();
  #connected = false;
  readonly #act: (action: Action) => void;
  readonly #send: (action: string, data: object) => string;

  /**
   * @param act Puts an action out; `cancel` of a timer that is not set is none.
   * @param send Sends a request of the session itself; gives its `msg_id`.
   * @param now Unix milliseconds.
   */
  constructor(
    positions: Record<string, number>,
    act: (action: Action) => void,
    send: (action: string, data: object) => string,
    now: () => number,
  ) {
    this.#positions = new Positions(positions);
    this.views = new Views(act, this, now);
    this.#act = act;
    this.#send = send;
  }

  get positions(): Record<string, number> {
    return this.#positions.toJSON();
  }

  /** A connection is there: asks for every domain. */
  start(): void {
    this.#connected = true;
    this.ask();
  }

  /** The connection is gone, and with it whatever was asked on it. */
  stop(): void {
    this.#connected = false;
    for (const domain of this.#tries.keys()) this.#act({ do: "cancel", timer: `resume:${domain}` });
    this.#tries.clear();
    this.#asked.clear();
    this.#followed.clear();
  }

  /** Asks for one domain, or for every one. */
  ask(domain?: string): void {
    for (const each of domain === undefined ? this.#positions.domains() : [domain]) this.#askFor(each);
  }

  /** A resume in flight for the domain is obsolete. Without a connection the next one resumes anyway. */
  #askFor(domain: string): void {
    if (!this.#connected) return;
    this.#overtake(domain);
    const streams = this.#positions.ofDomain(domain);
    if (streams.length === 0) this.#settled(domain);
    else this.#askInParts(domain, streams);
  }

  #overtake(domain: string): void {
    for (const [msgId, request] of this.#asked) if (request.domain === domain) this.#asked.delete(msgId);
  }

  #askInParts(domain: string, streams: [stream: string, seq: number][]): void {
    for (const [stream] of streams) this.#followed.add(stream);
    for (let from = 0; from < streams.length; from += STREAMS_A_REQUEST) {
      const asked = new Map(streams.slice(from, from + STREAMS_A_REQUEST));
      const msgId = this.#send(`${domain}.resume`, { positions: Object.fromEntries(asked) });
      this.#asked.set(msgId, { domain, asked });
    }
    this.#wait(domain, { min_ms: RESUME_TIME_MS, max_ms: RESUME_TIME_MS });
  }

  /** No answer in time, or the wait before another try is over. */
  timeUp(domain: string): void {
    this.#tries.set(domain, (this.#tries.get(domain) ?? 0) + 1);
    this.#askFor(domain);
  }

  /** A durable push came in. */
  arrive(push: DurablePush): void {
    this.#pass(this.#positions.arrive(push.stream, push.seq, push));
    this.#fill(push.stream);
  }

  position(stream: string): number | undefined {
    return this.#positions.position(stream);
  }

  isKnown(stream: string): boolean {
    return this.#positions.isKnown(stream);
  }

  /** The position of the stream is asked for: its pushes wait for the answer. */
  open(stream: string): void {
    this.#positions.open(stream);
  }

  /** One who asked for the position has not got it. */
  unopened(stream: string): void {
    this.#pass(this.#positions.unopened(stream));
    this.#fill(stream);
  }

  /** Receives what comes after `seq`, also if no request has subscribed this connection to the stream. */
  follow(stream: string, seq: number): void {
    this.#pass(this.#positions.track(stream, seq));
    const domain = domainOf(stream);
    if (!this.#connected || this.#followed.has(stream)) this.#fill(stream);
    // Else a request for the whole domain is about to be repeated.
    else if (!this.#tries.has(domain) || this.#underWay(domain)) {
      // This stream alone: a page of a hundred views would else resume a hundred streams a hundred times.
      this.#askInParts(domain, [[stream, this.position(stream) as number]]);
    }
  }

  /**
   * Such a request has ended.
   *
   * @param seq What its answer said; anything but an integer says nothing.
   * @param again The request was sent again on another connection: the answer may be the one of the first time, and
   *   pushes between the two connections are lost.
   */
  opened(stream: string, seq: unknown, again = false): void {
    if (!isPosition(seq)) return this.unopened(stream);
    this.#pass(this.#positions.track(stream, seq));
    this.#positions.reaches(stream, seq);
    if (again) return this.#askFor(domainOf(stream));
    this.#followed.add(stream);
    this.#fill(stream);
  }

  /** Takes a position learned elsewhere. */
  track(stream: string, seq: number): void {
    this.#pass(this.#positions.track(stream, seq));
    this.#fill(stream);
  }

  forget(stream: string): void {
    this.#positions.forget(stream);
    this.#followed.delete(stream);
  }

  /** Takes an answer if it is one to a resume; says whether it was. */
  answer(answer: Envelope): boolean {
    const request = this.#asked.get(answer.correlation_id as string);
    if (request === undefined || answer.action === "accepted") return request !== undefined;
    this.#asked.delete(answer.correlation_id as string);
    const { streams } = answer.data;
    if (answer.action === "error") this.#refused(request, TowpathError.fromWire(answer.data));
    else this.#resumed(request, isObject(streams) ? streams : {});
    return true;
  }

  #resumed({ domain, asked }: Asked, streams: Record<string, unknown>): void {
    for (const [stream, position] of asked) {
      const answered = Object.hasOwn(streams, stream) ? streams[stream] : undefined;
      const { seq, complete } = isObject(answered) ? answered : {};
      if (!isPosition(seq)) {
        this.#giveUp(stream);
        continue;
      }
      if (this.position(stream) === undefined) continue; // forgotten meanwhile
      const ready = this.#positions.resumed(stream, position, seq);
      if (complete === true && seq >= position) this.views.complete(stream);
      // Where nothing is missing, and still it is not complete, the user does not receive the stream.
      else this.#incomplete(stream, seq, seq === position);
      this.#pass(ready);
    }
    if (this.#underWay(domain)) return;
    if (this.#positions.hasHole(domain)) this.#later(domain);
    else this.#settled(domain);
  }

  #refused({ domain, asked }: Asked, error: TowpathError): void {
    if (error.retryable) {
      this.#overtake(domain); // an answer to another part of the domain must not end the wait for this one
      return this.#later(domain, error.retryAfterMs);
    }
    this.#act({ do: "report", error });
    for (const stream of asked.keys()) this.#giveUp(stream);
    if (!this.#underWay(domain)) this.#settled(domain);
  }

  /** Resumes if something of this stream is missing. A resume in flight, or one to be resent, finds it as well. */
  #fill(stream: string): void {
    const domain = domainOf(stream);
    if (this.#positions.isBehind(stream) && !this.#tries.has(domain)) this.#askFor(domain);
  }

  #settled(domain: string): void {
    this.#tries.delete(domain);
    this.#act({ do: "cancel", timer: `resume:${domain}` });
  }

  /** The missed part of this stream is unknown: report it, and hold nothing back. */
  #giveUp(stream: string): void {
    const ready = this.#positions.skip(stream);
    this.#incomplete(stream, null);
    this.#pass(ready);
  }

  #incomplete(stream: string, seq: number | null, refused = false): void {
    if (refused) this.#followed.delete(stream);
    this.#act({ do: "incomplete", stream, seq });
    this.views.incomplete(stream, seq, refused);
  }

  #later(domain: string, retryAfterMs?: number): void {
    this.#wait(domain, backoff(this.#tries.get(domain) ?? 0, advised(retryAfterMs)));
  }

  #wait(domain: string, wait: Wait): void {
    this.#tries.set(domain, this.#tries.get(domain) ?? 0);
    this.#act({ do: "timer", timer: `resume:${domain}`, ...wait });
  }

  #underWay(domain: string): boolean {
    return [...this.#asked.values()].some((request) => request.domain === domain);
  }

  #pass(pushes: DurablePush[]): void {
    for (const envelope of pushes) {
      this.#act({ do: "push", envelope });
      this.views.arrive(envelope);
    }
  }
}
