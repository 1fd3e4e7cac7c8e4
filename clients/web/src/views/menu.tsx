import { useId } from "preact/hooks";

import { DICTIONARIES, type LanguageName } from "../i18n/language.ts";
import type { Theme } from "../state/preferences.ts";
import { inText } from "../model/names.ts";
import type { Session } from "../state/session.ts";
import { useApp, useWords } from "./context.ts";
import { Dialog } from "./dialog.tsx";
import { Name } from "./name.tsx";

const THEMES: readonly Theme[] = ["auto", "light", "dark"];
const LANGUAGES = Object.keys(DICTIONARIES) as LanguageName[];

/** The signed-in user, the appearance of the page, and the versions. */
export function Menu() {
  const app = useApp();
  const { menu } = useWords();
  const [theme, language] = [useId(), useId()];
  const { preferences } = app;
  const session = app.session.value;
  const config = app.config.value;
  const about = [
    [menu.gateway, session?.connection.gateway.value],
    [menu.broker, config?.broker],
    [menu.database, config?.database],
  ].filter(([, value]) => value);
  return (
    <Dialog title={menu.title} onClose={() => (app.dialog.value = null)} class="narrow" testId="menu-dialog">
      {session && <p class="hint">{menu.signedInAs(inText(session.me))}</p>}
      <div class="setting">
        <label for={theme}>{menu.theme}</label>
        <select
          id={theme}
          data-testid="theme"
          value={preferences.theme.value}
          onChange={(event) => (preferences.theme.value = event.currentTarget.value as Theme)}
        >
          {THEMES.map((name) => (
            <option key={name} value={name}>
              {menu.themes[name]}
            </option>
          ))}
        </select>
      </div>
      <div class="setting">
        <label for={language}>{menu.language}</label>
        <select
          id={language}
          data-testid="language"
          value={preferences.languageName.value}
          onChange={(event) => (preferences.languageName.value = event.currentTarget.value as LanguageName | "auto")}
        >
          <option value="auto">{menu.languageAuto}</option>
          {LANGUAGES.map((name) => (
            <option key={name} value={name} lang={DICTIONARIES[name].tag}>
              {DICTIONARIES[name].language}
            </option>
          ))}
        </select>
      </div>
      {session && <Blocked session={session} />}
      {about.length > 0 && (
        <dl class="facts">
          {about.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      )}
      <div class="choices">
        {session && (
          <button type="button" data-testid="show-shortcuts" onClick={() => (app.dialog.value = "shortcuts")}>
            {menu.shortcuts}
          </button>
        )}
        {session && (
          <button type="button" data-testid="sign-out" onClick={() => app.signOut()}>
            {menu.signOut}
          </button>
        )}
      </div>
    </Dialog>
  );
}

/** The users whom the signed-in user blocks. */
function Blocked({ session: { chat } }: { session: Session }) {
  const app = useApp();
  const words = useWords();
  const users = [...chat.blocks.users.value].sort();
  const unblock = (user: string) => app.notices.attempt(`the member ${user}`, () => chat.unblock(user));
  if (users.length === 0) return null;
  return (
    <section class="blocked">
      <h3>{words.menu.blocked}</h3>
      <ul class="members" data-testid="blocked">
        {users.map((user) => (
          <li key={user}>
            <span class="name">
              <Name of={user} />
            </span>
            <button
              type="button"
              class="quiet"
              data-testid={`menu-unblock-${user}`}
              onClick={() => void unblock(user)}
            >
              {words.members.unblock}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
