/** The page as a whole: what is configured, who is signed in, which dialog is open. */
import { signal } from "@preact/signals";

import { type Config, fetchConfig, fetchToken } from "../demo.ts";
import { chooseGateways } from "../model/gateways.ts";
import type { Outbox } from "../model/outbox.ts";
import { Notices } from "./notices.ts";
import { Whereabouts } from "./place.ts";
import { Preferences } from "./preferences.ts";
import { type Kept, Session } from "./session.ts";

export type DialogName = "menu" | "shortcuts" | "switcher" | "new-room" | "members" | "leave" | "drop";

export class App {
  readonly preferences: Preferences;
  readonly place: Whereabouts;
  readonly notices = new Notices();
  readonly config = signal<Config | null>(null);
  readonly session = signal<Session | null>(null);
  readonly dialog = signal<DialogName | null>(null);
  /** Whether the user is at this window, as far as a browser can see. */
  readonly attentive = signal(true);
  /** The name and gateway that the address asks for. */
  readonly wanted: { user: string | null; gateway: string | null };
  #host: string;

  constructor(window: Window) {
    const query = new URLSearchParams(window.location.search);
    this.wanted = { user: query.get("user"), gateway: query.get("gateway") };
    this.#host = window.location.hostname;
    this.preferences = new Preferences(window.navigator.languages, window.document.documentElement);
    this.place = new Whereabouts(window);
    const look = () => (this.attentive.value = !window.document.hidden && window.document.hasFocus());
    for (const event of ["focus", "blur"]) window.addEventListener(event, look);
    window.document.addEventListener("visibilitychange", look);
    look();
  }

  /** The gateways in the order they are tried. Fetches the configuration when it is not there yet. */
  async gateways(): Promise<string[]> {
    this.config.value ??= await fetchConfig();
    return chooseGateways(this.config.value.gateways, this.wanted.gateway, this.#host);
  }

  async signIn(name: string): Promise<void> {
    await this.#begin(name, { outbox: signal<Outbox>([]), unsent: new Map() });
    this.preferences.lastName = name;
  }

  /** After a connection that was closed for good. Unsent messages stay. */
  async connectAgain(): Promise<void> {
    const before = this.session.value;
    if (before === null) return;
    try {
      await this.#begin(before.me, before.kept);
    } catch (error) {
      this.notices.problem(error);
    }
  }

  signOut(): void {
    this.session.value?.close();
    this.session.value = null;
    this.dialog.value = null;
  }

  async #begin(me: string, kept: Kept): Promise<void> {
    const urls = await this.gateways();
    const token = await fetchToken(me);
    this.session.value?.close();
    this.session.value = new Session({ me, token, urls }, kept, this.notices);
  }
}
