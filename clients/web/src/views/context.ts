/** The context of every view: the page, its language, and, after the sign-in, the user's session. */
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
  if (value === null) throw new Error("This view is outside of its context.");
  return value;
}
