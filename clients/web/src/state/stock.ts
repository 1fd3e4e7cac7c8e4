/** The stock of items on a client. Where no service has it, `isThere` stays false, and nothing is shown or said. */
import { signal } from "@preact/signals";
import { type Client, TowpathError } from "@towpath/client";

import { Again } from "./again.ts";
import type { Notices } from "./notices.ts";

const LISTED = 200;

export interface Stock {
  readonly sku: string;
  /** How many there are, the reserved ones included. */
  readonly on_hand: number;
  readonly reserved: number;
  readonly available: number;
  /** Grows with every change. */
  readonly revision: number;
}

export interface KeptNames {
  readonly names: readonly string[];
  keep(names: readonly string[]): void;
}

export class Stockroom {
  /** By name, as far as they are known. */
  readonly items = signal<ReadonlyMap<string, Stock>>(new Map());
  /** The names of those whose changes are pushed. */
  readonly watched = signal<ReadonlySet<string>>(new Set());
  /** Whether a service answers. */
  readonly isThere = signal(false);
  /** Whether the person may set it. */
  readonly maySet: boolean;
  #client: Client;
  #notices: Notices;
  #again = new Again(() => this.#client.state === "open" && void this.#load());

  /** @param kept the names of the items that this user watched before a reload, and where to keep them */
  constructor(client: Client, maySet: boolean, notices: Notices, kept: KeptNames = { names: [], keep: () => {} }) {
    this.#client = client;
    this.#notices = notices;
    this.watched.value = new Set(kept.names);
    this.watched.subscribe((names) => kept.keep([...names]));
    this.maySet = maySet;
    client.on("inventory.updated", (data) => {
      const stock = data as Stock;
      this.#take(stock);
      // Only of watched items is it pushed; this one was watched in another window.
      if (!this.watched.peek().has(stock.sku)) this.watched.value = new Set(this.watched.peek()).add(stock.sku);
    });
    client.on("incomplete", ({ stream }) => {
      const sku = [...this.watched.peek()].find((name) => streamOf(name) === stream);
      if (sku !== undefined) void this.#watch(sku).catch(() => {});
    });
    client.onState((state) => {
      if (state === "open") void this.#load();
      if (state === "closed") this.#again.done();
    });
  }

  /**
   * Follows an item.
   *
   * @throws {TowpathError} `not_found` if there is no such item
   */
  async watch(sku: string): Promise<void> {
    await this.#watch(sku);
    this.watched.value = new Set(this.watched.peek()).add(sku);
  }

  async unwatch(sku: string): Promise<void> {
    this.#client.forget(streamOf(sku));
    this.watched.value = new Set([...this.watched.peek()].filter((name) => name !== sku));
    await this.#client.request("inventory.unwatch", { sku });
  }

  /** Sets how many there are; an item that is new is there then. */
  async set(sku: string, onHand: number): Promise<void> {
    this.#take((await this.#client.request("inventory.set", { sku, on_hand: onHand })) as Stock);
  }

  async #watch(sku: string): Promise<void> {
    const answer = await this.#client.request("inventory.watch", { sku }, { stream: streamOf(sku) });
    this.#take(answer as Stock);
  }

  async #load(): Promise<void> {
    try {
      const page = (await this.#client.request("inventory.list", { limit: LISTED })) as { items: Stock[] };
      for (const stock of page.items) this.#take(stock);
      this.isThere.value = true;
      this.#again.done();
      const positions = this.#client.positions;
      const unheard = [...this.watched.peek()].filter((sku) => !(streamOf(sku) in positions));
      await Promise.allSettled(unheard.map((sku) => this.#watch(sku)));
    } catch (error) {
      const isAbsent = error instanceof TowpathError && ["unknown_action", "forbidden"].includes(error.code);
      if (isAbsent) this.isThere.value = false;
      if (this.#again.failed(error) && !isAbsent) this.#notices.problem(error);
    }
  }

  #take(stock: Stock): void {
    const known = this.items.peek().get(stock.sku);
    if (known !== undefined && known.revision >= stock.revision) return;
    this.items.value = new Map(this.items.peek()).set(stock.sku, stock);
  }
}

function streamOf(sku: string): string {
  return `inventory:${sku}`;
}
