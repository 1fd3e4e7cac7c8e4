import { Avatar } from "./avatar.tsx";
import { ConnectionPill } from "./connection.tsx";
import { useApp, useWords } from "./context.ts";
import { Icon } from "./icons.tsx";
import { Name } from "./name.tsx";
import { Bell } from "./notifications.tsx";

/** The bar on top: the name of the thing, the connection, and the person's menu. */
export function Bar() {
  const app = useApp();
  const words = useWords();
  const session = app.session.value;
  const config = app.config.value;
  return (
    <header class="bar">
      <h1 class="brand">
        <Icon name="bridge" />
        <span>Towpath</span>
      </h1>
      <p class="backing">{[config?.broker, config?.database].filter(Boolean).join(" · ")}</p>
      {session && <ConnectionPill />}
      {session && <Bell />}
      <button
        type="button"
        class="quiet account"
        data-testid="menu"
        aria-haspopup="dialog"
        onClick={() => (app.dialog.value = "menu")}
      >
        {session ? <Avatar name={session.me} /> : null}
        {session ? (
          <span class="account-name" data-testid="account-name">
            <Name of={session.me} />
          </span>
        ) : null}
        <span class="unseen">{words.menu.open}</span>
        <Icon name="menu" />
      </button>
    </header>
  );
}
