/**
 * The envelope: one message shape in both directions, one JSON text per frame.
 */
import { isObject } from "./errors.js";

export const VERSION = "1.0";
export const SUBPROTOCOL = "towpath.v1";
export const TOKEN_PREFIX = "towpath.token.";

const ID = /^[A-Za-z0-9._:-]{1,64}$/;

/**
 * Whether `value` may stand as `msg_id` or `key`.
 *
 * @param {unknown} value
 */
export function isId(value) {
  return typeof value === "string" && ID.test(value);
}

/**
 * The JSON text of one envelope. Throws a TypeError for data that JSON cannot hold (a BigInt, a cycle).
 *
 * @param {{msg_id: string, timestamp: number, action: string, data?: object, key?: string, ack?: boolean}} fields
 */
export function encode({ msg_id, timestamp, action, data = {}, key, ack }) {
  return JSON.stringify({ msg_id, timestamp, action, data, version: VERSION, key, ack: ack || undefined });
}

/**
 * Reads one frame; `null` when it is no envelope.
 *
 * @param {unknown} text
 * @returns {Record<string, any> | null}
 */
export function decode(text) {
  if (typeof text !== "string") return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  return isObject(value) && typeof value.action === "string" && isObject(value.data) ? value : null;
}

/**
 * Size on the wire: UTF-8 bytes, which is what the server's frame limit counts.
 *
 * @param {string} text
 */
export function byteLength(text) {
  return new TextEncoder().encode(text).length;
}

/**
 * An ordering key for any name, such as a room's: the name itself where the wire allows its letters, else its
 * CRC-32. Two names that share a key are only put in one order; nothing is mixed up.
 *
 * @param {string} name
 */
export function keyOf(name) {
  return isId(name) ? name : `crc32:${crc32(new TextEncoder().encode(name)).toString(16).padStart(8, "0")}`;
}

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
