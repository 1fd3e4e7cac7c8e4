/** Orders on a client: keeps the list, submits and cancels. */
import { signal } from "@preact/signals";
import type { Client, OrderState, SubmitOrder } from "@towpath/client";

import { type Order, OrderBook } from "../model/order-book.ts";
import { Again } from "./again.ts";
import type { Notices } from "./notices.ts";

const PAGE = 20;
const SUBMIT_TIMEOUT_MS = 120_000;

/** The subject of a notice. */
const LISTING = "the list of orders";

export class Orders {
  readonly book = signal(new OrderBook());
  readonly hasOlder = signal(false);
  /** The last order that was pushed with a new state, to be read out. */
  readonly moved = signal<OrderState | null>(null);
  #client: Client;
  #notices: Notices;
  #again = new Again(() => this.#client.state === "open" && void this.#list());
  #cursor: string | null | undefined;

  constructor(client: Client, me: string, notices: Notices) {
    this.#client = client;
    this.#notices = notices;
    client.on("order.updated", (order) => {
      const known = this.book.peek().orders.find(({ order_id }) => order_id === order.order_id);
      if (known && known.revision < order.revision) this.moved.value = order;
      this.book.value = this.book.peek().take(order);
    });
    client.on("incomplete", ({ stream }) => {
      if (stream.startsWith("order:")) void this.#list();
    });
    client.onState((state) => {
      if (state === "open") void this.#list();
      if (state === "closed") this.#again.done();
    });
    // From the stream's beginning, as far as it is kept: its entries are what the timelines are made of.
    client.track(`order:${me}`, 0);
    client.resume("order");
  }

  /**
   * @param accepted Called once the broker has it safely; the service may answer later.
   * @returns the order's id
   */
  async submit(order: SubmitOrder, accepted: () => void): Promise<string> {
    const answer = await this.#client.request("order.submit", order, {
      ack: accepted,
      timeout: SUBMIT_TIMEOUT_MS,
    });
    this.book.value = this.book.peek().take(answer);
    return answer.order_id;
  }

  async cancel({ order_id }: Order): Promise<void> {
    const answer = await this.#client.request("order.cancel", { order_id });
    this.book.value = this.book.peek().take(answer);
  }

  async loadOlder(): Promise<void> {
    await this.#list({ older: true });
  }

  async #list({ older = false } = {}): Promise<void> {
    try {
      const cursor = older ? this.#cursor : null;
      const page = await this.#client.request("order.list", { limit: PAGE, ...(cursor && { cursor }) });
      // A repeated first page must not take the list back to its beginning.
      const goesOn = older || this.book.peek().orders.length <= PAGE || this.#cursor === undefined;
      this.book.value = this.book.peek().takePage(page.orders, { older });
      if (goesOn) this.#cursor = page.cursor ?? null;
      this.hasOlder.value = typeof this.#cursor === "string";
      this.#again.done();
      this.#notices.settle(LISTING);
    } catch (error) {
      if (older || this.#again.failed(error)) this.#notices.problem(error, LISTING);
    }
  }
}
