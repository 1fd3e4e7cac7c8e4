/**
 * Orders on a client: keeps the list, submits and cancels, and calls `changed` after every change.
 */
import { OrderBook } from "./model/order-book.js";

const PAGE = 20;
const SUBMIT_TIMEOUT_MS = 120_000;

export class Orders {
  book = new OrderBook();
  hasOlder = false;
  #client;
  #changed;
  #problem;
  /** @type {string | undefined} */
  #cursor;

  /**
   * @param {import("@towpath/client").Client} client
   * @param {{changed: () => void, problem: (error: unknown) => void}} told
   */
  constructor(client, { changed, problem }) {
    this.#client = client;
    this.#changed = changed;
    this.#problem = problem;
    client.on("order.updated", (order) => this.#take(order));
    client.on("incomplete", ({ stream }) => stream.startsWith("order:") && this.#list());
    // Before the first push there is no position to resume from, so every connection begins with the list.
    client.onState((state) => state === "open" && this.#list());
  }

  /**
   * @param {object} order `{amount, currency}` or `{items, currency}`
   * @param {() => void} accepted Called once the broker has it safely; the service may answer later.
   * @returns {Promise<string>} the order's id
   */
  async submit(order, accepted) {
    const answer = await this.#client.request("order.submit", order, { ack: accepted, timeout: SUBMIT_TIMEOUT_MS });
    this.#take(answer);
    return answer.order_id;
  }

  /** @param {string} orderId */
  async cancel(orderId) {
    this.#take(await this.#client.request("order.cancel", { order_id: orderId }));
  }

  async loadOlder() {
    await this.#list({ older: true });
  }

  async #list({ older = false } = {}) {
    try {
      const range = older ? { cursor: this.#cursor } : {};
      const { orders, cursor } = await this.#client.request("order.list", { limit: PAGE, ...range });
      const goesOn = older || this.book.orders.length <= PAGE;
      this.book.takePage(orders, { older });
      if (goesOn) this.#cursor = cursor;
      this.hasOlder = this.#cursor !== undefined && this.#cursor !== null;
      this.#changed();
    } catch (error) {
      this.#problem(error);
    }
  }

  #take(order) {
    this.book.take(order);
    this.#changed();
  }
}
