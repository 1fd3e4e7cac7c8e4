/** The stock of items on a client. Where no service has it, `isThere` stays false, and nothing is shown or said. */
import { signal } from "@preact/signals";
import type { Client, StockState, StockView } from "@towpath/client";

import { Again } from "./again.ts";
import { Following, isAbsent } from "./following.ts";
import type { Notices } from "./notices.ts";

const LISTED = 200;

export interface KeptNames {
  readonly names: readonly string[];
  keep(names: readonly string[]): void;
}

export class Stockroom {
  /** By name, as far as they are known. */
  readonly items = signal<ReadonlyMap<string, StockState>>(new Map());
  /** The names of those whose changes are pushed. */
  readonly watched = signal<ReadonlySet<string>>(new Set());
  /** Whether a service answers. */
  readonly isThere = signal(false);
  /** Whether the person may set it. */
  readonly maySet: boolean;
  #client: Client;
  #notices: Notices;
  /** By name. */
  #followings = new Map<string, Following<StockView>>();
  /** Not watched any more; pushes that were on their way do not bring them back. */
  #left = new Set<string>();
  #again = new Again(() => this.#client.state === "open" && void this.#list());

  /** @param kept the names of the items that this user watched before a reload, and where to keep them */
  constructor(client: Client, maySet: boolean, notices: Notices, kept: KeptNames = { names: [], keep: () => {} }) {
    this.#client = client;
    this.#notices = notices;
    this.maySet = maySet;
    this.watched.value = new Set(kept.names);
    this.watched.subscribe((names) => kept.keep([...names]));
    for (const sku of kept.names) void this.#follow(sku);
    client.on("inventory.updated", ({ sku }) => {
      // Only of watched items is it pushed; this one was watched in another window.
      if (!this.#followings.has(sku) && !this.#left.has(sku)) void this.#follow(sku);
    });
    client.onState((state) => {
      if (state === "open") void this.#list();
      if (state === "closed") this.#again.done();
    });
  }

  /**
   * Follows an item.
   *
   * @throws {TowpathError} `not_found` if there is no such item
   */
  async watch(sku: string): Promise<void> {
    if (this.#followings.get(sku)?.isOpen) return;
    try {
      await this.#follow(sku);
    } catch (error) {
      this.#unfollow(sku);
      throw error;
    }
  }

  async unwatch(sku: string): Promise<void> {
    this.#left.add(sku);
    this.#unfollow(sku);
    this.#client.forget(streamOf(sku));
    this.watched.value = new Set([...this.watched.peek()].filter((name) => name !== sku));
    await this.#client.request("inventory.unwatch", { sku });
  }

  /** Sets how many there are; an item that is new is there then. */
  async set(sku: string, onHand: number): Promise<void> {
    this.#take(await this.#client.request("inventory.set", { sku, on_hand: onHand }));
  }

  /** Each item is a stream of its own. The answer subscribes, so it is the state to begin with. */
  #follow(sku: string): Promise<void> {
    this.#left.delete(sku);
    const stream = streamOf(sku);
    const watch = (signal: AbortSignal) => this.#client.request("inventory.watch", { sku }, { stream, signal });
    const following = this.#followings.get(sku) ?? new Following<StockView>(this.#client, stream, watch, {
      reset: (stock) => {
        this.#take(stock);
        if (!this.watched.peek().has(sku)) this.watched.value = new Set(this.watched.peek()).add(sku);
      },
      change: ({ data }) => this.#take(data as StockState),
      failed: () => {}, // the list of items says it
      refused: () => {},
    });
    this.#followings.set(sku, following);
    return following.open();
  }

  #unfollow(sku: string): void {
    this.#followings.get(sku)?.close();
    this.#followings.delete(sku);
  }

  /** Lists what there is, for names to choose from. No view: each of the items has a stream of its own. */
  async #list(): Promise<void> {
    try {
      const { items } = await this.#client.request("inventory.list", { limit: LISTED });
      for (const stock of items) this.#take(stock);
      this.isThere.value = true;
      this.#again.done();
    } catch (error) {
      if (isAbsent(error)) this.isThere.value = false;
      if (this.#again.failed(error) && !isAbsent(error)) this.#notices.problem(error);
    }
  }

  /** The answer to a request may be ahead of the stream: an older state is never shown after a newer one. */
  #take(stock: StockState): void {
    const known = this.items.peek().get(stock.sku);
    if (known !== undefined && known.revision >= stock.revision) return;
    this.items.value = new Map(this.items.peek()).set(stock.sku, stock);
  }
}

function streamOf(sku: string): string {
  return `inventory:${sku}`;
}
