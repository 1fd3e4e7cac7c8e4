import { hue, initials } from "../model/names.js";
import { el } from "./dom.js";

const HUES = 6;

/**
 * A small disc with a name's initials, in a colour that is always the same for the name.
 *
 * @param {string} name
 */
export function avatar(name) {
  return el("span", { class: "avatar", "data-hue": hue(name, HUES), "aria-hidden": "true" }, initials(name));
}
