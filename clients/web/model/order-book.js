/**
 * The user's orders as this page knows them, newest first. No I/O.
 *
 * An order comes from answers, pushes and lists in any order; the highest `revision` stands.
 *
 * @typedef {{order_id: string, status: string, revision: number, amount: string, currency: string,
 *   updated_at?: number, detail?: unknown}} Order
 */

/** The way of an order that goes well. */
export const STEPS = ["submitted", "confirmed", "paid", "packed", "shipped", "delivered"];

const CANCELLABLE = new Set(["submitted", "confirmed", "paid", "packed"]);

/** @param {Order} order */
export function isCancellable({ status }) {
  return CANCELLABLE.has(status);
}

export class OrderBook {
  /** @type {Map<string, Order>} */
  #orders = new Map();
  /** @type {string[]} newest first */
  #ids = [];

  /** @returns {Order[]} */
  get orders() {
    return this.#ids.map((id) => this.#orders.get(id));
  }

  /**
   * Takes one order's state. An order that is new here goes to the top.
   *
   * @param {Order} order
   */
  take(order) {
    const known = this.#orders.get(order.order_id);
    if (known === undefined) this.#ids.unshift(order.order_id);
    if (known === undefined || order.revision >= known.revision) {
      this.#orders.set(order.order_id, { ...known, ...order });
    }
  }

  /**
   * Takes a page of the list, newest first, which begins at the top or goes on at the bottom.
   *
   * @param {Order[]} orders
   * @param {{older: boolean}} where
   */
  takePage(orders, { older }) {
    const listed = orders.map((order) => order.order_id);
    const others = this.#ids.filter((id) => !listed.includes(id));
    const firstListed = this.#ids.findIndex((id) => listed.includes(id));
    // What stood above the list's first order was pushed while the list was under way, or is newer than all of it.
    const above = older || firstListed < 0 ? others.length : firstListed;
    for (const order of orders) this.take(order);
    this.#ids = [...others.slice(0, above), ...listed, ...others.slice(above)];
  }
}
