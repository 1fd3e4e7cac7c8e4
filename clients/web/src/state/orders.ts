/** Orders on a client: keeps the list, submits and cancels. */
import { signal } from "@preact/signals";
import type { Client, OrderPage, OrderState, SubmitOrder } from "@towpath/client";

import { type Order, OrderBook } from "../model/order-book.ts";
import { Following } from "./following.ts";
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
  #cursor: string | null = null;

  constructor(client: Client, me: string, notices: Notices) {
    this.#client = client;
    this.#notices = notices;
    const stream = `order:${me}`;
    // The list has each order as it is now. Timelines are made of the stream's entries from its beginning on, as far as
    // they are kept: those before the list come to listeners alone.
    client.on("order.updated", (order) => void (this.book.value = this.book.peek().recall(order)));
    client.track(stream, 0);
    client.resume("order");
    const list = (signal: AbortSignal) => client.request("order.list", { limit: PAGE }, { signal });
    const failed = (error: unknown) => notices.problem(error, LISTING);
    const following = new Following<OrderPage>(client, stream, list, {
      reset: (page) => {
        this.book.value = this.book.peek().list(page.orders);
        this.#endsAt(page);
        notices.settle(LISTING);
      },
      change: ({ action, data }) => {
        if (action === "order.updated") this.#changed(data as OrderState);
      },
      failed,
      refused: failed,
    });
    void following.open();
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
    const cursor = this.#cursor;
    if (cursor === null) return;
    try {
      const page = await this.#client.request("order.list", { limit: PAGE, cursor });
      if (this.#cursor !== cursor) return; // listed again meanwhile, or asked for twice
      this.book.value = this.book.peek().extend(page.orders);
      this.#endsAt(page);
    } catch (error) {
      this.#notices.problem(error, LISTING);
    }
  }

  #changed(order: OrderState): void {
    const known = this.book.peek().orders.find(({ order_id }) => order_id === order.order_id);
    if (known && known.revision < order.revision) this.moved.value = order;
    this.book.value = this.book.peek().take(order);
  }

  #endsAt({ cursor }: OrderPage): void {
    this.#cursor = cursor ?? null;
    this.hasOlder.value = this.#cursor !== null;
  }
}
