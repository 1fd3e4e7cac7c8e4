/** The detail of an order's state: any JSON, as the backend gave it that moved the order. */

/** Sentences for reasons that are known, each with the items that are to blame. */
export type Reasons = Readonly<Record<string, (skus: string) => string>>;

/**
 * A detail as people read it; empty if there is none.
 *
 * A known reason is put into the language of the page; another detail is shown with its own `text`, or as it is.
 */
export function textOf(detail: unknown, reasons: Reasons): string {
  if (detail === null || detail === undefined) return "";
  if (typeof detail === "string") return detail;
  if (typeof detail === "object") {
    const { reason, skus, text } = detail as Record<string, unknown>;
    if (typeof reason === "string" && Object.hasOwn(reasons, reason) && Array.isArray(skus)) {
      return reasons[reason]!(skus.join(", "));
    }
    if (typeof text === "string" && text !== "") return text;
  }
  return JSON.stringify(detail);
}
