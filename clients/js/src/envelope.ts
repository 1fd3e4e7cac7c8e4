/**
 * The envelope: one message shape in both directions, one JSON text per frame.
 */
import { isObject } from "./errors.js";
import { isPosition } from "./positions.js";

export const VERSION = "1.0";
export const SUBPROTOCOL = "towpath.v1";
export const TOKEN_PREFIX = "towpath.token.";

/** One message in its form on the wire. */
export interface Envelope<Data = Record<string, any>> {
  msg_id: string;
  /** Unix milliseconds, as the sender's clock had it. */
  timestamp: number;
  /** The name of a request, answer or push, such as `chat.message`. */
  action: string;
  data: Data;
  version: string;
  key?: string;
  ack?: boolean;
  /** The `msg_id` that this answers. */
  correlation_id?: string;
  /** With `seq`, the position of a durable push; `seq` grows by exactly 1 per stream. */
  stream?: string;
  seq?: number;
  traceparent?: string;
}

/** An envelope that holds a position in a stream. */
export interface DurablePush extends Envelope {
  stream: string;
  seq: number;
}

const ID = /^[A-Za-z0-9._:-]{1,64}$/;

/** Whether `value` may stand as `msg_id` or `key`. */
export function isId(value: unknown): value is string {
  return typeof value === "string" && ID.test(value);
}

export interface Outgoing {
  msg_id: string;
  timestamp: number;
  action: string;
  data?: object | undefined;
  key?: string | undefined;
  ack?: boolean | undefined;
}

/** The JSON text of one envelope. Throws a TypeError for data that JSON cannot hold (a BigInt, a cycle). */
export function encode({ msg_id, timestamp, action, data = {}, key, ack }: Outgoing): string {
  return JSON.stringify({ msg_id, timestamp, action, data, version: VERSION, key, ack: ack || undefined });
}

/** Reads one frame; `null` if it is not an envelope. Only `action` and `data` are certain to have the right type. */
export function decode(text: unknown): Envelope | null {
  try {
    const value: unknown = typeof text === "string" && JSON.parse(text);
    const fits = isObject(value) && typeof value["action"] === "string" && isObject(value["data"]);
    return fits ? (value as unknown as Envelope) : null;
  } catch {
    return null;
  }
}

export function isDurable(envelope: Envelope): envelope is DurablePush {
  const { stream, seq } = envelope;
  return typeof stream === "string" && stream !== "" && isPosition(seq) && seq > 0;
}

/** Size on the wire: UTF-8 bytes, which is what the server's frame limit counts. */
export function byteLength(text: string): number {
  return utf8(text).length;
}

/**
 * An ordering key for any name, such as a room's: the name itself where the wire allows its letters, else `crc32:`
 * and its CRC-32. Two names that share a key are only put in one order; nothing is mixed up.
 */
export function keyOf(name: string): string {
  return isId(name) ? name : `crc32:${crc32(utf8(name)).toString(16).padStart(8, "0")}`;
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function crc32(bytes: Uint8Array): number {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
