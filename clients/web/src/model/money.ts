/**
 * Amounts as people type them and as the wire wants them: texts with as many decimals as the currency has, counted in
 * minor units (cents, where there are cents), no floats.
 */

/** How many decimals a currency has, by ISO 4217: 2 for EUR, 0 for JPY, 3 for KWD. */
export function decimalsOf(currency: string): number {
  const format = new Intl.NumberFormat("en", { style: "currency", currency });
  return format.resolvedOptions().maximumFractionDigits ?? 2;
}

/** How many decimals an amount of the wire is written with. */
export function decimalsIn(amount: string): number {
  const point = amount.indexOf(".");
  return point < 0 ? 0 : amount.length - point - 1;
}

/** The most that an amount may be, in minor units: 9999999999999.99, or as much of it as there are decimals. */
export function mostOf(decimals: number): bigint {
  return BigInt("9".repeat(13) + "99".slice(0, decimals).padEnd(decimals, "0"));
}

/** Whether a text is an amount that is more than {@link mostOf}. */
export function isTooMuch(text: string, decimals: number): boolean {
  const match = /^0*(\d+)(?:[.,](\d+))?$/.exec(text.trim());
  const fraction = match?.[2] ?? "";
  if (match === null || fraction.length > decimals || match[1]!.length < 13) return false;
  return match[1]!.length > 13 || BigInt(match[1]! + fraction.padEnd(decimals, "0")) > mostOf(decimals);
}

/**
 * Minor units, or `null` if the text is not an amount of so many decimals; with two it takes `99.9`, `99,90`, `1200`.
 */
export function parseMoney(text: string, decimals: number): bigint | null {
  const match = /^(\d{1,13})(?:[.,](\d+))?$/.exec(text.trim());
  const fraction = match?.[2] ?? "";
  if (match === null || fraction.length > decimals) return null;
  return BigInt(match[1]! + fraction.padEnd(decimals, "0"));
}

/** Minor units as the wire has them, such as `"99.90"`, or `"500"` without decimals. */
export function formatMoney(minor: bigint, decimals: number): string {
  const digits = String(minor).padStart(decimals + 1, "0");
  return decimals === 0 ? digits : `${digits.slice(0, -decimals)}.${digits.slice(-decimals)}`;
}

/** One line of an order as it is typed. */
export interface Line {
  sku: string;
  quantity: string;
  unitPrice: string;
}

/** Whether a line can be submitted in a currency of so many decimals. */
export function isWhole({ sku, quantity, unitPrice }: Line, decimals: number): boolean {
  return sku.trim() !== "" && /^[1-9]\d{0,5}$/.test(quantity.trim()) && parseMoney(unitPrice, decimals) !== null;
}

/** The sum of the lines, in minor units; `null` while one of them is not whole. */
export function totalOf(lines: readonly Line[], decimals: number): bigint | null {
  if (!lines.every((line) => isWhole(line, decimals))) return null;
  return lines.reduce(
    (sum, line) => sum + BigInt(line.quantity.trim()) * parseMoney(line.unitPrice, decimals)!,
    0n,
  );
}
