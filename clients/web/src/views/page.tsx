import type { App } from "../state/app.ts";
import { Bar } from "./bar.tsx";
import { ClosedBanner } from "./connection.tsx";
import { AppContext, SessionContext, useApp, useWords } from "./context.ts";
import { DemoBar } from "./demo-bar.tsx";
import { Menu } from "./menu.tsx";
import { NoticeList } from "./notices.tsx";
import { SignIn } from "./sign-in.tsx";
import { Workspace } from "./workspace.tsx";

export function Page({ app }: { app: App }) {
  const session = app.session.value;
  return (
    <AppContext.Provider value={app}>
      <SessionContext.Provider value={session}>
        <SkipLink />
        <Bar />
        <DemoBar />
        <NoticeList />
        {session && <ClosedBanner />}
        {session ? <Workspace key={session} /> : <SignIn />}
        {app.dialog.value === "menu" && <Menu />}
      </SessionContext.Provider>
    </AppContext.Provider>
  );
}

function SkipLink() {
  const words = useWords();
  const isSignedIn = useApp().session.value !== null;
  if (!isSignedIn) return null;
  const skip = () => (document.getElementById("composer") ?? document.getElementById("main"))?.focus();
  return (
    <a
      class="skip"
      href="#main"
      onClick={(event) => {
        event.preventDefault(); // the address keeps the open room
        skip();
      }}
    >
      {words.skip}
    </a>
  );
}
