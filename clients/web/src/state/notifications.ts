/** Notifications on a client. Where no service has them, `isThere` stays false, and nothing is shown or said. */
import { signal } from "@preact/signals";
import type { Client, Notification, NotificationPage } from "@towpath/client";

import { NONE, extended, listed, notified, read } from "../model/notifications.ts";
import { Following, isAbsent } from "./following.ts";
import type { Notices } from "./notices.ts";

const PAGE = 30;

/** The subject of a notice. */
const LISTING = "the list of notifications";

export interface MailPreferences {
  /** Where mails go; null for no mails. */
  readonly email: string | null;
  readonly language: string;
  /** Which notifications are sent as mails. */
  readonly kinds: readonly string[];
}

export class Notifications {
  readonly all = signal(NONE);
  /** Whether a service answers. */
  readonly isThere = signal(false);
  /** The last one that was pushed, to be read out. */
  readonly heard = signal<Notification | null>(null);
  #client: Client;

  constructor(client: Client, me: string, notices: Notices) {
    this.#client = client;
    const list = (signal: AbortSignal) => client.request("notification.list", { limit: PAGE }, { signal });
    const failed = (error: unknown) => {
      if (isAbsent(error)) this.isThere.value = false;
      else notices.problem(error, LISTING);
    };
    const following = new Following<NotificationPage>(client, `notification:${me}`, list, {
      reset: (page) => {
        this.all.value = listed(this.all.peek(), page);
        this.isThere.value = true;
        notices.settle(LISTING);
      },
      change: ({ action, data }) => {
        if (action === "notification.new") this.#notified(data as Notification);
      },
      failed,
      refused: failed,
    });
    void following.open();
    client.on("notification.read", (data) => void (this.all.value = read(this.all.peek(), data)));
  }

  /** All that are there are read. */
  async markRead(): Promise<void> {
    const answer = await this.#client.request("notification.read", { up_to: this.all.peek().head });
    this.all.value = read(this.all.peek(), answer);
  }

  async loadOlder(): Promise<void> {
    const last = this.all.peek().list.at(-1);
    if (last === undefined) return;
    const page = await this.#client.request("notification.list", { limit: PAGE, before_seq: last.seq });
    if (this.all.peek().list.at(-1) !== last) return; // listed again meanwhile, or asked for twice
    this.all.value = extended(this.all.peek(), page);
  }

  /** Gives the preferences, after the changes, if there are any. */
  async preferences(changes: Partial<MailPreferences> = {}): Promise<MailPreferences> {
    return (await this.#client.request("notification.preferences", changes)) as MailPreferences;
  }

  #notified(one: Notification): void {
    if (one.seq > this.all.peek().head) this.heard.value = one;
    this.all.value = notified(this.all.peek(), one);
  }
}
