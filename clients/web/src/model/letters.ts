/** Lengths as the services count them: in characters (code points), where JavaScript counts UTF-16 units. No I/O. */
import { Problem } from "./problem.ts";

/** The longest texts that the services take, in characters; a detail is as long as an order shows well. */
export const LIMITS = { message: 4_000, roomName: 128, roomTitle: 200, user: 128, orderId: 64, sku: 64, detail: 200 };

/** How many characters a text has. */
export function lettersIn(text: string): number {
  let count = text.length;
  for (let at = 0; at < text.length - 1; at++) {
    const isPair = (text.charCodeAt(at) & 0xfc00) === 0xd800 && (text.charCodeAt(at + 1) & 0xfc00) === 0xdc00;
    if (!isPair) continue;
    count -= 1;
    at += 1;
  }
  return count;
}

/** How many characters a text has too many, as it is sent: without the spaces around it. 0 when it fits. */
export function excess(text: string, limit: number): number {
  if (text.length <= limit) return 0; // there are no more characters than units
  return Math.max(0, lettersIn(text.trim()) - limit);
}

/** @throws {Problem} `too_long` */
export function checkLength(text: string, limit: number): void {
  const tooMany = excess(text, limit);
  if (tooMany > 0) throw new Problem({ code: "too_long", excess: tooMany, limit });
}
