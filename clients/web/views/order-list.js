/**
 * The user's orders with their live states.
 */
import { STEPS, isCancellable } from "../model/order-book.js";
import { byId, el, reconcile } from "./dom.js";
import { showProblem } from "./notices.js";

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

/**
 * @param {import("../orders.js").Orders} orders
 * @param {{pick: ((orderId: string) => void) | null, signal: AbortSignal}} options `pick` hands an order to the
 *   backend's panel, where there is one.
 * @returns {() => void} shows what is there now
 */
export function showOrders(orders, { pick, signal }) {
  const cancel = async (event, orderId) => {
    event.target.disabled = true;
    try {
      await orders.cancel(orderId);
    } catch (error) {
      event.target.disabled = false;
      showProblem(error);
    }
  };

  const entry = (order) =>
    el(
      "li",
      { class: "order", "data-testid": `order-${order.order_id}`, "data-status": order.status },
      el(
        "div",
        { class: "head" },
        el("strong", { class: "id" }, order.order_id),
        el("span", { class: "sum" }, `${order.amount} ${order.currency}`),
        el("span", { class: "status", "data-testid": "order-status" }, order.status),
      ),
      steps(order.status),
      hasText(order.detail) && el("p", { class: "detail", "data-testid": "order-detail" }, textOf(order.detail)),
      el(
        "div",
        { class: "foot" },
        order.updated_at
          ? el("time", { datetime: new Date(order.updated_at).toISOString() }, when(order.updated_at))
          : el("span"),
        pick && el("button", { type: "button", class: "quiet", onclick: () => pick(order.order_id) }, "To backend"),
        isCancellable(order) &&
          el(
            "button",
            {
              type: "button",
              class: "quiet danger",
              "data-testid": `cancel-${order.order_id}`,
              onclick: (event) => cancel(event, order.order_id),
            },
            "Cancel",
            el("span", { class: "unseen" }, ` order ${order.order_id}`),
          ),
      ),
    );

  byId("orders-more").addEventListener("click", () => orders.loadOlder(), { signal });
  signal.addEventListener("abort", () => reconcile(byId("orders"), [], String, () => el("li")));

  return () => {
    const all = orders.book.orders;
    reconcile(byId("orders"), all, (order) => JSON.stringify(order), entry);
    byId("orders-empty").hidden = all.length > 0;
    byId("orders-more").hidden = !orders.hasOlder;
    byId("backend-orders").replaceChildren(...all.map((order) => el("option", { value: order.order_id })));
  };
}

/** How far an order has come; one that left the usual way shows its last state by colour only. */
function steps(status) {
  const at = STEPS.indexOf(status);
  const marks = STEPS.map((step, index) => el("span", { class: index <= at && "done", title: step }));
  return el("div", { class: "steps", "aria-hidden": "true" }, ...marks);
}

/** The time today, else the day. */
function when(moment) {
  const isToday = DAY.format(moment) === DAY.format(Date.now());
  return (isToday ? TIME : DAY).format(moment);
}

function hasText(detail) {
  return detail !== null && detail !== undefined && detail !== "";
}

function textOf(detail) {
  return typeof detail === "string" ? detail : JSON.stringify(detail);
}
