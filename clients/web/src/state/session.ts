/** One signed-in person on one client, until they sign out or connect again. */
import type { Signal } from "@preact/signals";
import { type Client, connect } from "@towpath/client";

import type { Token } from "../demo.ts";
import type { Outbox } from "../model/outbox.ts";
import { mayDo } from "../model/rights.ts";
import { Chat } from "./chat.ts";
import { ConnectionState } from "./connection.ts";
import { isAbsent } from "./following.ts";
import type { Notices } from "./notices.ts";
import { Notifications } from "./notifications.ts";
import { Orders } from "./orders.ts";
import { type KeptNames, Stockroom } from "./stock.ts";

/** The right that `inventory.set` needs. */
const SET_STOCK = "inventory:write";

export interface SignedIn {
  readonly me: string;
  /** The first token. */
  readonly token: string;
  /** Gives a later one. */
  readonly fetchToken: () => Promise<Token>;
  readonly urls: readonly string[];
  /** The items that the person watches. */
  readonly watched: KeptNames;
}

/** State that outlives a connection that was closed for good, while the user stays. */
export interface Kept {
  readonly outbox: Signal<Outbox>;
  /** Typed and unsent texts, by room. */
  readonly unsent: Map<string, string>;
}

export class Session {
  readonly me: string;
  readonly kept: Kept;
  readonly connection: ConnectionState;
  readonly chat: Chat;
  readonly orders: Orders;
  readonly notifications: Notifications;
  readonly stock: Stockroom;
  #client: Client;

  constructor({ me, token, fetchToken, urls, watched }: SignedIn, kept: Kept, notices: Notices) {
    const tokens = [token];
    this.me = me;
    this.kept = kept;
    this.#client = connect({ urls, token: async () => tokens.pop() ?? (await fetchToken()).token });
    this.#client.onError((error) => {
      if (!isAbsent(error)) console.warn(error);
    });
    this.connection = new ConnectionState(this.#client);
    this.chat = new Chat(this.#client, me, kept.outbox, notices);
    this.orders = new Orders(this.#client, me, notices);
    this.notifications = new Notifications(this.#client, me, notices);
    this.stock = new Stockroom(this.#client, mayDo(token, SET_STOCK), notices, watched);
  }

  close(): void {
    this.#client.close();
  }
}
