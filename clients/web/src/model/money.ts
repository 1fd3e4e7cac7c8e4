/** Amounts as people type them and as the wire wants them: texts with two decimals, counted in cents, no floats. */

const AMOUNT = /^(\d{1,13})(?:[.,](\d{1,2}))?$/;

/** Cents, or `null` when the text is no amount; takes `99.9`, `99,90` and `1200`. */
export function parseCents(text: string): bigint | null {
  const match = AMOUNT.exec(text.trim());
  return match && BigInt(match[1]!) * 100n + BigInt((match[2] ?? "").padEnd(2, "0"));
}

/** Cents as the wire has them, such as `"99.90"`. */
export function formatCents(cents: bigint): string {
  const digits = String(cents).padStart(3, "0");
  return `${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

/** One line of an order as it is typed. */
export interface Line {
  sku: string;
  quantity: string;
  unitPrice: string;
}

/** Whether a line can be submitted. */
export function isWhole({ sku, quantity, unitPrice }: Line): boolean {
  return sku.trim() !== "" && /^[1-9]\d{0,5}$/.test(quantity.trim()) && parseCents(unitPrice) !== null;
}

/** What the lines come to; `null` while one of them is not whole. */
export function totalOf(lines: readonly Line[]): bigint | null {
  if (!lines.every(isWhole)) return null;
  return lines.reduce((sum, line) => sum + BigInt(line.quantity.trim()) * parseCents(line.unitPrice)!, 0n);
}
