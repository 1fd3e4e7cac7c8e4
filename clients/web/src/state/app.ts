/** The page as a whole: what is configured, who is signed in, which dialog is open. */
import { signal } from "@preact/signals";

import { type Config, type Token, fetchConfig, fetchToken } from "../demo.ts";
import { chooseGateways } from "../model/gateways.ts";
import type { Outbox } from "../model/outbox.ts";
import { Notices } from "./notices.ts";
import { Whereabouts } from "./place.ts";
import { Preferences } from "./preferences.ts";
import { type Kept, Session } from "./session.ts";
import { endVisit, keepVisit, keptNames, readVisit, tabStorage } from "./visit.ts";

export type DialogName = "menu" | "shortcuts" | "switcher" | "new-room" | "members" | "notifications" | "leave" | "drop";

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
  /** Whether the visit before a reload goes on, which takes a moment. */
  readonly returning = signal(false);
  #host: string;
  #tab: Storage | null;

  constructor(window: Window) {
    const query = new URLSearchParams(window.location.search);
    this.wanted = { user: query.get("user"), gateway: query.get("gateway") };
    this.#host = window.location.hostname;
    this.#tab = tabStorage(window);
    this.preferences = new Preferences(window.navigator.languages, window.document.documentElement);
    this.place = new Whereabouts(window);
    const look = () => (this.attentive.value = !window.document.hidden && window.document.hasFocus());
    for (const event of ["focus", "blur"]) window.addEventListener(event, look);
    window.document.addEventListener("visibilitychange", look);
    look();
    void this.#comeBack();
  }

  /** The gateways in the order they are tried. Fetches the configuration when it is not there yet. */
  async gateways(): Promise<string[]> {
    this.config.value ??= await fetchConfig();
    return chooseGateways(this.config.value.gateways, this.wanted.gateway, this.#host);
  }

  async signIn(name: string): Promise<void> {
    await this.#begin(name, newKept(), null);
    this.preferences.lastName = name;
  }

  /** After a connection that was closed for good. Unsent messages stay. */
  async connectAgain(): Promise<void> {
    const before = this.session.value;
    if (before === null) return;
    try {
      await this.#begin(before.me, before.kept, null);
    } catch (error) {
      this.notices.problem(error);
    }
  }

  signOut(): void {
    endVisit(this.#tab);
    this.session.value?.close();
    this.session.value = null;
    this.dialog.value = null;
    this.notices.clear();
  }

  /** Goes on with the visit before a reload, unless the address asks for another name. */
  async #comeBack(): Promise<void> {
    const visit = readVisit(this.#tab);
    if (visit === null || (this.wanted.user !== null && this.wanted.user !== visit.user)) return;
    this.returning.value = true;
    try {
      await this.#begin(visit.user, newKept(), visit.token);
    } catch (error) {
      this.notices.problem(error);
    } finally {
      this.returning.value = false;
    }
  }

  /** @param known a token that is still good; null fetches one */
  async #begin(me: string, kept: Kept, known: string | null): Promise<void> {
    const urls = await this.gateways();
    const fetchAndKeep = async (): Promise<Token> => {
      const fetched = await fetchToken(me);
      keepVisit(this.#tab, { user: me, ...fetched });
      return fetched;
    };
    const token = known ?? (await fetchAndKeep()).token;
    this.session.value?.close();
    this.session.value = new Session(
      { me, token, fetchToken: fetchAndKeep, urls, watched: keptNames(this.#tab, "watched", me) },
      kept,
      this.notices,
    );
  }
}

function newKept(): Kept {
  return { outbox: signal<Outbox>([]), unsent: new Map() };
}
