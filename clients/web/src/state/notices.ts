/** Words to the person that go away by themselves. A notice keeps what happened, so that it follows the language. */
import { signal } from "@preact/signals";

import { type Words, en } from "../i18n/en.ts";
import { describe } from "../i18n/errors.ts";

const SHOWN_MS = { problem: 12_000, news: 6_000 };
const SHOWN = 3;

export interface Notice {
  readonly id: number;
  readonly kind: "problem" | "news";
  readonly text: (words: Words) => string;
}

export class Notices {
  readonly shown = signal<readonly Notice[]>([]);
  #ids = 0;
  #ends = new Map<number, ReturnType<typeof setTimeout>>();

  problem(error: unknown): void {
    this.#show("problem", (words) => describe(error, words));
  }

  news(text: (words: Words) => string): void {
    this.#show("news", text);
  }

  dismiss(id: number): void {
    clearTimeout(this.#ends.get(id));
    this.#ends.delete(id);
    this.shown.value = this.shown.value.filter((notice) => notice.id !== id);
  }

  #show(kind: Notice["kind"], text: Notice["text"]): void {
    const id = (this.#ids += 1);
    const same = this.shown.value.find((notice) => notice.text(en) === text(en));
    if (same) this.dismiss(same.id); // once is enough
    this.shown.value = [...this.shown.value, { id, kind, text }];
    this.#ends.set(id, setTimeout(() => this.dismiss(id), SHOWN_MS[kind]));
    for (const { id: old } of this.shown.value.slice(0, -SHOWN)) this.dismiss(old);
  }
}
