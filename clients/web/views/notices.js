/**
 * Words to the person: what an error means, and a place to show it that goes away by itself.
 */
import { byId, el } from "./dom.js";

const SHOWN_MS = 8_000;

/**
 * @param {any} error
 * @returns {string}
 */
export function describe(error) {
  const fields = error?.details?.fields;
  if (Array.isArray(fields) && fields.length > 0) {
    return fields.map(({ field, problem }) => `${field}: ${problem}`).join("; ");
  }
  if (error?.code === "unknown_action") return "No service answers this at the moment. Try again in a while.";
  return error?.message || "Something went wrong.";
}

/** @param {unknown} error */
export function showProblem(error) {
  const notices = byId("notices");
  const text = describe(error);
  for (const other of notices.children) if (other.firstChild.textContent === text) other.remove();
  const notice = el(
    "div",
    { class: "notice", "data-testid": "notice" },
    el("p", {}, text),
    el("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => notice.remove() }, "×"),
  );
  notices.append(notice);
  setTimeout(() => notice.remove(), SHOWN_MS);
}
