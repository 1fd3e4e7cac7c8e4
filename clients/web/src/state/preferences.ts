/** The user's preferences, kept in the browser where possible: appearance, language, folded panels, the last name. */
import { type ReadonlySignal, type Signal, computed, effect, signal } from "@preact/signals";

import { type Language, type LanguageName, bestLanguage, languageOf } from "../i18n/language.ts";

export type Theme = "auto" | "light" | "dark";

/** The panels that can be folded. */
export type FoldName = "backend" | "stock";

export class Preferences {
  readonly theme = signal<Theme>(oneOf(["light", "dark"], read("theme")) ?? "auto");
  readonly languageName = signal<LanguageName | "auto">(oneOf(["en", "zh"], read("language")) ?? "auto");
  readonly language: ReadonlySignal<Language>;
  /** Which panels are open. */
  readonly folds: Readonly<Record<FoldName, Signal<boolean>>> = { backend: kept("backend"), stock: kept("stock") };

  constructor(browserLanguages: readonly string[], page: HTMLElement) {
    this.language = computed(() => {
      const chosen = this.languageName.value;
      return languageOf(chosen === "auto" ? bestLanguage(browserLanguages) : chosen, browserLanguages);
    });
    effect(() => {
      const theme = this.theme.value;
      if (theme === "auto") delete page.dataset.theme;
      else page.dataset.theme = theme;
      write("theme", theme);
    });
    effect(() => {
      page.lang = this.language.value.words.tag;
      write("language", this.languageName.value);
    });
  }

  get lastName(): string {
    return read("name") ?? "";
  }

  set lastName(name: string) {
    write("name", name);
  }
}

/** Whether a panel is open, as it was left. */
function kept(panel: FoldName): Signal<boolean> {
  const isOpen = signal(read(panel) !== "folded");
  effect(() => write(panel, isOpen.value ? "open" : "folded"));
  return isOpen;
}

function oneOf<Choice extends string>(choices: readonly Choice[], text: string | null): Choice | undefined {
  return choices.find((choice) => choice === text);
}

function read(name: string): string | null {
  try {
    return localStorage.getItem(`towpath.${name}`);
  } catch {
    return null;
  }
}

function write(name: string, value: string): void {
  try {
    localStorage.setItem(`towpath.${name}`, value);
  } catch {
    // A browser that keeps nothing is fine.
  }
}
