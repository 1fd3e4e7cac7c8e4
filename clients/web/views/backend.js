/**
 * The panel that acts as another backend: publishes order events, of which the orders service and then the user hear.
 */
import { publishEvent } from "../demo.js";
import { byId, el, setProblem } from "./dom.js";
import { describe } from "./notices.js";

const EVENTS = ["confirmed", "paid", "packed", "shipped", "delivered", "rejected", "refunded", "cancelled"];
const KEPT = 3;

/**
 * @param {string} me
 * @param {{signal: AbortSignal}} options
 * @returns {{pick: (orderId: string) => void, suggest: (orderId: string) => void}} `pick` takes an order and goes to
 *   the form, `suggest` takes one as long as the field is left alone.
 */
export function showBackend(me, { signal }) {
  const [form, order, user, event, detail, line] = [
    "backend-form",
    "backend-order",
    "backend-user",
    "backend-event",
    "backend-detail",
    "backend-problem",
  ].map(byId);
  let suggested = "";

  event.replaceChildren(...EVENTS.map((name) => el("option", { value: `order.${name}` }, name)));
  order.value = "";
  user.value = me;

  const publish = async () => {
    const [orderId, userId, note] = [order, user, detail].map((field) => field.value.trim());
    setProblem(order, line, orderId === "" ? "Which order? Submit one above or give its id." : "");
    if (orderId === "") return order.focus();
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    try {
      const data = { order_id: orderId, ...(userId && { user_id: userId }), ...(note && { detail: note }) };
      const msgId = await publishEvent(event.value, data);
      report(`${event.value} for ${orderId}`, msgId);
      detail.value = "";
    } catch (error) {
      setProblem(order, line, describe(error));
    } finally {
      button.disabled = false;
    }
  };

  const report = (what, msgId) => {
    const list = byId("published");
    list.prepend(el("li", {}, "Published ", el("strong", {}, what), " ", el("code", {}, msgId)));
    while (list.children.length > KEPT) list.lastElementChild.remove();
  };

  form.addEventListener(
    "submit",
    (submitted) => {
      submitted.preventDefault();
      publish();
    },
    { signal },
  );
  signal.addEventListener("abort", () => {
    byId("published").replaceChildren();
    setProblem(order, line);
  });

  const pick = (orderId) => {
    order.value = suggested = orderId;
    user.value = me;
    event.focus();
  };
  const suggest = (orderId) => {
    if (order.value === suggested) order.value = suggested = orderId;
  };
  return { pick, suggest };
}
