/**
 * Words to the person that go away by themselves, and at once when they are dealt with. A notice keeps what happened,
 * so that it follows the language.
 */
import { signal } from "@preact/signals";

import { type Words, en } from "../i18n/en.ts";
import { describe } from "../i18n/errors.ts";

const SHOWN_MS = { problem: 12_000, news: 6_000 };
const SHOWN = 3;

export interface Notice {
  readonly id: number;
  readonly kind: "problem" | "news";
  /** Its subject, to end it by; empty where nothing ends it. */
  readonly about: string;
  readonly text: (words: Words) => string;
}

export class Notices {
  readonly shown = signal<readonly Notice[]>([]);
  #ids = 0;
  #ends = new Map<number, ReturnType<typeof setTimeout>>();

  /** @param about see {@link settle} */
  problem(error: unknown, about = ""): void {
    this.#show("problem", (words) => describe(error, words), about);
  }

  /** @param about see {@link settle} */
  news(text: (words: Words) => string, about = ""): void {
    this.#show("news", text, about);
  }

  /** Ends the notices about something that is dealt with. */
  settle(about: string): void {
    for (const notice of this.shown.peek()) if (notice.about === about) this.dismiss(notice.id);
  }

  /** Ends all of them. */
  clear(): void {
    for (const { id } of this.shown.peek()) this.dismiss(id);
  }

  /**
   * Does something, and says when it failed. Once it succeeds, what was said of earlier attempts ends.
   *
   * @returns whether it succeeded
   */
  async attempt(about: string, deed: () => unknown): Promise<boolean> {
    try {
      await deed();
    } catch (error) {
      this.problem(error, about);
      return false;
    }
    this.settle(about);
    return true;
  }

  dismiss(id: number): void {
    clearTimeout(this.#ends.get(id));
    this.#ends.delete(id);
    this.shown.value = this.shown.value.filter((notice) => notice.id !== id);
  }

  #show(kind: Notice["kind"], text: Notice["text"], about: string): void {
    const id = (this.#ids += 1);
    const same = this.shown.value.find((notice) => notice.text(en) === text(en));
    if (same) this.dismiss(same.id); // once is enough
    this.shown.value = [...this.shown.value, { id, kind, about, text }];
    this.#ends.set(id, setTimeout(() => this.dismiss(id), SHOWN_MS[kind]));
    for (const { id: old } of this.shown.value.slice(0, -SHOWN)) this.dismiss(old);
  }
}
