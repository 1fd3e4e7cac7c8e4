/** What every view can reach: the page, the language it speaks, and, once somebody is signed in, their session. */
import { createContext } from "preact";
import { useContext } from "preact/hooks";

import type { Words } from "../i18n/en.ts";
import type { Language } from "../i18n/language.ts";
import type { App } from "../state/app.ts";
import type { Session } from "../state/session.ts";

export const AppContext = createContext<App | null>(null);
export const SessionContext = createContext<Session | null>(null);

export function useApp(): App {
  return given(useContext(AppContext));
}

export function useSession(): Session {
  return given(useContext(SessionContext));
}

export function useLanguage(): Language {
  return useApp().preferences.language.value;
}

export function useWords(): Words {
  return useLanguage().words;
}

function given<Value>(value: Value | null): Value {
  if (value === null) throw new Error("This view stands outside of what it needs.");
  return value;
}
