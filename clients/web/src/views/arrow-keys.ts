/** Arrow keys in a list: one stop for Tab, then up, down, Home and End. */

/** Takes a `keydown` in `list` and moves the focus among the elements that match `stops`; says whether it did. */
export function moveFocus(event: KeyboardEvent, list: HTMLElement, stops: string): boolean {
  const all = [...list.querySelectorAll<HTMLElement>(stops)];
  const at = all.indexOf(document.activeElement as HTMLElement);
  const target = {
    ArrowDown: at + 1,
    ArrowUp: at < 0 ? all.length - 1 : at - 1,
    Home: 0,
    End: all.length - 1,
  }[event.key];
  const next = target === undefined ? undefined : all[Math.min(all.length - 1, Math.max(0, target))];
  if (next === undefined || event.altKey || event.ctrlKey || event.metaKey) return false;
  event.preventDefault();
  next.focus();
  return true;
}
