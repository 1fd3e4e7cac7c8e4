/** Text areas that one writes messages in. */

const FITS_BY_ITSELF = typeof CSS !== "undefined" && CSS.supports("field-sizing", "content");

/** Makes a text area as high as its text, where the browser does not do so by itself. */
export function fit(area: HTMLTextAreaElement): void {
  if (FITS_BY_ITSELF) return;
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

/** Enter that means "done": not a new line, and not the end of a word that an input method composes. */
export function isPlainEnter(event: KeyboardEvent): boolean {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}
