import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect } from "preact/hooks";

import { directRoom, isDirect, partner } from "../model/names.ts";
import { totalUnread } from "../model/room-list.ts";
import type { View } from "../model/place.ts";
import { Backend } from "./backend.tsx";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Conversation, DropRoom, LeaveRoom } from "./conversation.tsx";
import { Icon, type IconName } from "./icons.tsx";
import { Members } from "./members.tsx";
import { NewRoom } from "./new-room.tsx";
import { NotificationList } from "./notifications.tsx";
import { OrderForm } from "./order-form.tsx";
import { OrderList } from "./order-list.tsx";
import { Sidebar } from "./room-list.tsx";
import { ShortcutList, useShortcuts } from "./shortcuts.tsx";
import { StockPanel } from "./stock.tsx";
import { Switcher } from "./switcher.tsx";

/** The whole view of a signed-in user: rooms, a conversation, orders. */
export function Workspace() {
  const app = useApp();
  const { view, room } = app.place.here.value;
  useShortcuts();
  usePlace();
  useTitle();
  return (
    <main class="workspace" id="main" data-view={view} data-pane={room === null ? "list" : "room"} tabIndex={-1}>
      <div class="chat">
        <Sidebar />
        <Conversation />
      </div>
      <Trade />
      <Tabs />
      <OpenDialog />
    </main>
  );
}

/** The orders, and the other backend that moves them. */
function Trade() {
  const app = useApp();
  const words = useWords();
  const suggestion = useSignal<{ orderId: string; picked: boolean } | null>(null);
  const hasBackend = app.config.value?.demo ?? false;
  return (
    <div class="trade">
      <section class="orders" aria-labelledby="orders-title">
        <h2 id="orders-title">{words.orders.title}</h2>
        <OrderForm onSubmitted={(orderId) => (suggestion.value = { orderId, picked: false })} />
        <OrderList onPick={hasBackend ? (orderId) => (suggestion.value = { orderId, picked: true }) : null} />
      </section>
      <div class="panels">
        <StockPanel />
        {hasBackend && <Backend suggestion={suggestion} />}
      </div>
    </div>
  );
}

/** On a narrow page chat and orders take turns. */
function Tabs() {
  const app = useApp();
  const { chat } = useSession();
  const { words, number } = useLanguage();
  const unread = totalUnread(chat.rooms.value.values());
  const tab = (view: View, icon: IconName) => (
    <button
      type="button"
      data-testid={`tab-${view}`}
      aria-current={app.place.here.value.view === view ? "page" : undefined}
      onClick={() => app.place.view(view)}
    >
      <Icon name={icon} />
      {words.tabs[view]}
      {view === "chat" && unread > 0 && (
        <>
          <span class="count" aria-hidden="true">
            {number(unread)}
          </span>
          <span class="unseen">, {words.rooms.unread(unread)}</span>
        </>
      )}
    </button>
  );
  return (
    <nav class="tabs" aria-label={words.tabs.label}>
      {tab("chat", "chat")}
      {tab("orders", "orders")}
    </nav>
  );
}

function OpenDialog() {
  switch (useApp().dialog.value) {
    case "switcher":
      return <Switcher />;
    case "shortcuts":
      return <ShortcutList />;
    case "new-room":
      return <NewRoom />;
    case "members":
      return <Members />;
    case "notifications":
      return <NotificationList />;
    case "leave":
      return <LeaveRoom />;
    case "drop":
      return <DropRoom />;
    default:
      return null;
  }
}

/** Keeps the open room and the address the same. */
function usePlace(): void {
  const app = useApp();
  const { chat, me } = useSession();
  useSignalEffect(() => {
    const { room } = app.place.here.value;
    const isForeign = room !== null && isDirect(room) && directRoom(me, partner(room, me)) !== room;
    if (isForeign) app.place.room(null); // from another user's link
    else chat.show(room);
  });
  useSignalEffect(() => {
    if (chat.open.value === null && app.place.here.peek().room !== null) app.place.room(null); // one has left
  });
}

function useTitle(): void {
  const { chat } = useSession();
  const { number } = useLanguage();
  const unread = totalUnread(chat.rooms.value.values());
  useEffect(() => {
    document.title = unread > 0 ? `(${number(unread)}) Towpath` : "Towpath";
    return () => {
      document.title = "Towpath";
    };
  }, [unread, number]);
}
