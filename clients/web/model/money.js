/**
 * Amounts as people type them and as the wire wants them: strings with two decimals, counted in cents, never floats.
 */
const AMOUNT = /^(\d{1,13})(?:[.,](\d{1,2}))?$/;

/**
 * Cents, or `null` when the text is no amount.
 *
 * @param {string} text such as `99.9`, `99,90` or `1200`
 * @returns {bigint | null}
 */
export function parseCents(text) {
  const match = AMOUNT.exec(text.trim());
  return match && BigInt(match[1]) * 100n + BigInt((match[2] ?? "").padEnd(2, "0"));
}

/** @param {bigint} cents */
export function formatCents(cents) {
  const digits = String(cents).padStart(3, "0");
  return `${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

/**
 * What the lines of an order come to.
 *
 * @param {{quantity: number, unit_price: string}[]} items
 */
export function totalOf(items) {
  return items.reduce((sum, { quantity, unit_price }) => sum + BigInt(quantity) * parseCents(unit_price), 0n);
}
