/**
 * Building and updating elements. Text goes in as text nodes only, so nothing a person writes is ever markup.
 */

/** @param {string} id */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * @param {string} tag
 * @param {Record<string, any>} [props] Attributes, and `on*` listeners; what is null, undefined or false is left out.
 * @param {...(Node | string | null | false | undefined)} children
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * Brings a list in line with `items`: an item whose key is there already keeps its element, so that screen readers
 * hear of new ones only and focus stays where it is. A key must change when what is shown changes.
 *
 * @template Item
 * @param {Element} list
 * @param {Item[]} items
 * @param {(item: Item) => string} keyOf
 * @param {(item: Item) => Element} build
 */
export function reconcile(list, items, keyOf, build) {
  const there = keyed.get(list) ?? new Map();
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, element] of there) if (!wanted.has(key)) element.remove();
  let place = list.firstElementChild;
  const now = new Map();
  for (const [key, item] of wanted) {
    const element = there.get(key) ?? build(item);
    now.set(key, element);
    if (element === place) place = place.nextElementSibling;
    else list.insertBefore(element, place);
  }
  keyed.set(list, now);
}

/** @type {WeakMap<Element, Map<string, Element>>} */
const keyed = new WeakMap();

/**
 * Shows `text` in a field's problem line and marks the field; without text takes both away.
 *
 * @param {HTMLElement} field
 * @param {HTMLElement} line
 * @param {string} [text]
 */
export function setProblem(field, line, text = "") {
  line.textContent = text;
  if (text) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}
