/** Notifications on a client. Where no service has them, `isThere` stays false, and nothing is shown or said. */
import { signal } from "@preact/signals";
import { type Client, TowpathError } from "@towpath/client";

import { NONE, type Notification, type Page, notified, paged, read } from "../model/notifications.ts";
import { Again } from "./again.ts";
import type { Notices } from "./notices.ts";

const PAGE = 30;

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
  #notices: Notices;
  #stream: string;
  #again = new Again(() => this.#client.state === "open" && void this.#load());

  constructor(client: Client, me: string, notices: Notices) {
    this.#client = client;
    this.#notices = notices;
    this.#stream = `notification:${me}`;
    client.on("notification.new", (data) => {
      const one = data as Notification;
      if (one.seq > this.all.peek().head) this.heard.value = one;
      this.all.value = notified(this.all.peek(), one);
    });
    client.on("notification.read", (data) => {
      this.all.value = read(this.all.peek(), data as { read_seq: number; unread: number });
    });
    client.on("incomplete", ({ stream }) => {
      if (stream === this.#stream) void this.#load();
    });
    client.onState((state) => {
      if (state === "open") void this.#load();
      if (state === "closed") this.#again.done();
    });
  }

  /** All that are there are read. */
  async markRead(): Promise<void> {
    const { head } = this.all.peek();
    const answer = await this.#client.request("notification.read", { up_to: head });
    this.all.value = read(this.all.peek(), answer as { read_seq: number; unread: number });
  }

  async loadOlder(): Promise<void> {
    const last = this.all.peek().list.at(-1);
    const page = await this.#client.request("notification.list", { limit: PAGE, before_seq: last?.seq });
    this.all.value = paged(this.all.peek(), page as Page, { older: true });
  }

  /** Gives the preferences, after the changes, if there are any. */
  async preferences(changes: Partial<MailPreferences> = {}): Promise<MailPreferences> {
    return (await this.#client.request("notification.preferences", changes)) as MailPreferences;
  }

  async #load(): Promise<void> {
    try {
      const page = (await this.#client.request("notification.list", { limit: PAGE })) as Page;
      if (!(this.#stream in this.#client.positions)) {
        this.#client.track(this.#stream, page.seq);
        this.#client.resume("notification");
      }
      this.all.value = paged(this.all.peek(), page, { older: false });
      this.isThere.value = true;
      this.#again.done();
    } catch (error) {
      const isAbsent = error instanceof TowpathError && ["unknown_action", "forbidden"].includes(error.code);
      if (isAbsent) this.isThere.value = false;
      if (this.#again.failed(error) && !isAbsent) this.#notices.problem(error);
    }
  }
}
