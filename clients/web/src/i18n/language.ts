/** A language: its words, and how it writes times, numbers and money. */
import { decimalsIn } from "../model/money.ts";
import { en, type Words } from "./en.ts";
import { zh } from "./zh.ts";

export const DICTIONARIES = { en, zh } as const;
export type LanguageName = keyof typeof DICTIONARIES;

export interface Language {
  readonly name: LanguageName;
  readonly words: Words;
  compare(one: string, other: string): number;
  number(value: number): string;
  /** Hours and minutes. */
  time(at: number): string;
  /** A day as one would name it: today, yesterday, Monday 3 March. */
  day(at: number, now: number): string;
  /** The time, and the day where it is not today. */
  moment(at: number, now: number): string;
  /** `amount` as the wire has it, a decimal of any length. */
  money(amount: string, currency: string): string;
}

/** The first of the browser's languages that there is a dictionary for, else English. */
export function bestLanguage(wanted: readonly string[]): LanguageName {
  for (const tag of wanted) {
    const name = tag.toLowerCase().split("-")[0];
    if (name === "en" || name === "zh") return name;
  }
  return "en";
}

/**
 * @param regions the browser's languages: one that is the same language says how its region writes dates
 */
export function languageOf(name: LanguageName, regions: readonly string[] = []): Language {
  const words = DICTIONARIES[name];
  const tag = regions.find((region) => region.toLowerCase().split("-")[0] === name) ?? words.tag;
  const number = new Intl.NumberFormat(tag);
  const time = new Intl.DateTimeFormat(tag, { hour: "2-digit", minute: "2-digit" });
  const relative = new Intl.RelativeTimeFormat(tag, { numeric: "auto" });
  const weekday = new Intl.DateTimeFormat(tag, { weekday: "long", day: "numeric", month: "long" });
  const date = new Intl.DateTimeFormat(tag, { dateStyle: "long" });
  const dateAndTime = new Intl.DateTimeFormat(tag, {
    month: "short",
    day: "numeric",
    hour: "2-digit",
    minute: "2-digit",
  });
  const formats = new Map<string, Intl.NumberFormat | null>();
  const { compare } = new Intl.Collator(tag, { numeric: true });

  const day = (at: number, now: number) => {
    const days = daysBetween(at, now);
    if (days === 0 || days === -1) return capitalised(relative.format(days, "day"));
    return (new Date(at).getFullYear() === new Date(now).getFullYear() ? weekday : date).format(at);
  };

  return {
    name,
    words,
    compare,
    number: (value) => number.format(value),
    time: (at) => time.format(at),
    day,
    moment: (at, now) => (daysBetween(at, now) === 0 ? time : dateAndTime).format(at),
    money: (amount, currency) => {
      const decimals = decimalsIn(amount);
      const key = `${currency} ${decimals}`;
      if (!formats.has(key)) formats.set(key, formatOf(tag, currency, decimals));
      return formats.get(key)?.format(amount as `${number}`) ?? `${amount} ${currency}`;
    },
  };
}

function formatOf(tag: string, currency: string, decimals: number): Intl.NumberFormat | null {
  try {
    // The digits of the wire are shown, even where the browser knows another number of decimals.
    const fraction = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
    return new Intl.NumberFormat(tag, { style: "currency", currency, ...fraction });
  } catch {
    return null; // no currency that is known
  }
}

/** Negative for the past. */
function daysBetween(at: number, now: number): number {
  const midnight = (moment: number) => new Date(moment).setHours(0, 0, 0, 0);
  return Math.round((midnight(at) - midnight(now)) / 86_400_000);
}

function capitalised(text: string): string {
  return text.charAt(0).toLocaleUpperCase() + text.slice(1);
}
