/**
 * The form that submits an order: by its amount, or by items that come to one.
 */
import { formatCents, parseCents, totalOf } from "../model/money.js";
import { byId, el, setProblem } from "./dom.js";
import { describe } from "./notices.js";

/**
 * @param {import("../orders.js").Orders} orders
 * @param {{submitted: (orderId: string) => void, signal: AbortSignal}} options
 */
export function showOrderForm(orders, { submitted, signal }) {
  const [form, amount, line, list] = ["order-form", "order-amount", "order-problem", "order-items"].map(byId);

  const addItem = () => {
    const field = (label, name, more) =>
      el("label", {}, el("span", {}, label), el("input", { name, autocomplete: "off", ...more }));
    const row = el(
      "li",
      {},
      field("Article", "sku", { maxlength: 64 }),
      field("Count", "quantity", { inputmode: "numeric", value: "1" }),
      field("Price", "unit_price", { inputmode: "decimal", placeholder: "0.00" }),
      el(
        "button",
        { type: "button", class: "quiet", "aria-label": "Remove this item", onclick: () => remove(row) },
        "×",
      ),
    );
    list.append(row);
    row.querySelector("input").focus();
    total();
  };

  const remove = (row) => {
    row.remove();
    total();
  };

  const items = () =>
    [...list.children].map((row) => {
      const value = (name) => row.querySelector(`[name=${name}]`).value.trim();
      return { sku: value("sku"), quantity: Number(value("quantity")), unit_price: value("unit_price") };
    });

  /** With items the amount follows from them. */
  const total = () => {
    const lines = items();
    amount.readOnly = lines.length > 0;
    if (lines.length > 0) amount.value = lines.every(isWhole) ? formatCents(totalOf(lines)) : "";
  };

  const submit = async () => {
    const lines = items();
    const currency = byId("order-currency").value;
    const problem = problemWith(amount.value, lines);
    setProblem(amount, line, problem);
    if (problem) return;
    const priced = lines.map((item) => ({ ...item, unit_price: formatCents(parseCents(item.unit_price)) }));
    const order = lines.length > 0 ? { items: priced } : { amount: formatCents(parseCents(amount.value)) };
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    try {
      const waiting = () => (button.textContent = "Accepted…");
      const id = await orders.submit({ ...order, currency }, waiting);
      list.replaceChildren();
      amount.value = "";
      total();
      submitted(id);
    } catch (error) {
      if (!signal.aborted) setProblem(amount, line, describe(error));
    } finally {
      button.textContent = "Submit";
      button.disabled = false;
    }
  };

  form.addEventListener(
    "submit",
    (event) => {
      event.preventDefault();
      submit();
    },
    { signal },
  );
  form.addEventListener(
    "input",
    () => {
      setProblem(amount, line);
      total();
    },
    { signal },
  );
  byId("add-item").addEventListener("click", addItem, { signal });
  signal.addEventListener("abort", () => {
    list.replaceChildren();
    form.reset();
    setProblem(amount, line);
  });
}

function isWhole({ sku, quantity, unit_price }) {
  return sku !== "" && Number.isSafeInteger(quantity) && quantity >= 1 && parseCents(unit_price) !== null;
}

function problemWith(amount, items) {
  const bad = items.findIndex((item) => !isWhole(item));
  if (bad >= 0) return `Item ${bad + 1} needs an article, a count of 1 or more, and a price such as 9.90.`;
  if (items.length === 0 && parseCents(amount) === null) return "Give an amount such as 99.90, or add items.";
  return "";
}
