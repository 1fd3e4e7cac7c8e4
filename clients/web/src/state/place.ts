/** Where the person is; the address says it too, so that a link, a reload and the way back lead there. */
import { signal } from "@preact/signals";

import { type Place, type View, hashOf, parsePlace } from "../model/place.ts";

export class Whereabouts {
  readonly here;
  #window: Window;

  constructor(window: Window) {
    this.#window = window;
    this.here = signal<Place>(parsePlace(window.location.hash));
    window.addEventListener("hashchange", () => (this.here.value = parsePlace(window.location.hash)));
  }

  /** Opens a room, or, with null, the list of rooms. */
  room(room: string | null): void {
    this.#go({ view: "chat", room });
  }

  view(view: View): void {
    this.#go({ ...this.here.value, view });
  }

  #go(place: Place): void {
    this.here.value = place;
    if (this.#window.location.hash !== hashOf(place)) this.#window.location.hash = hashOf(place);
  }
}
