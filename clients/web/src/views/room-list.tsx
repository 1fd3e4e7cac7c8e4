import { useSignal } from "@preact/signals";

import { LIMITS, checkLength } from "../model/letters.ts";
import { inText } from "../model/names.ts";
import { listed } from "../model/room-list.ts";
import type { Room } from "../model/room.ts";
import { moveFocus } from "./arrow-keys.ts";
import { Avatar } from "./avatar.tsx";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Icon } from "./icons.tsx";
import { Name } from "./name.tsx";
import { Offers } from "./start.tsx";

/** The rooms and the people one writes to, what one is invited to, and where to find more. */
export function Sidebar() {
  const app = useApp();
  const { chat } = useSession();
  const { words, compare } = useLanguage();
  const { rooms, directs } = listed(chat.rooms.value.values(), compare);
  return (
    <nav class="sidebar" aria-label={words.rooms.label}>
      <Invitations />
      <section aria-labelledby="rooms-title">
        <header>
          <h2 id="rooms-title">{words.rooms.title}</h2>
          <button
            type="button"
            class="quiet icon-only"
            aria-label={words.rooms.find}
            aria-keyshortcuts="Control+K Meta+K"
            title={words.rooms.find}
            data-testid="find-room"
            onClick={() => (app.dialog.value = "switcher")}
          >
            <Icon name="search" />
          </button>
          <button
            type="button"
            class="quiet icon-only"
            aria-label={words.rooms.create}
            title={words.rooms.create}
            data-testid="new-room"
            onClick={() => (app.dialog.value = "new-room")}
          >
            <Icon name="plus" />
          </button>
        </header>
        <RoomList rooms={rooms} testId="rooms" />
        {rooms.length === 0 && chat.listed.value && (
          <div class="none">
            <p class="empty">{words.rooms.none}</p>
            <Offers />
          </div>
        )}
        <GoForm
          label={words.rooms.joinLabel}
          placeholder={words.rooms.joinPlaceholder}
          go={words.rooms.join}
          testIds={["room-input", "join-room"]}
          onGo={(name) => chat.join(name)}
        />
      </section>
      <section class="people" aria-labelledby="directs-title">
        <header>
          <h2 id="directs-title">{words.rooms.people}</h2>
        </header>
        <RoomList rooms={directs} testId="directs" />
        {directs.length === 0 && <p class="empty">{words.rooms.noPeople}</p>}
        <GoForm
          label={words.rooms.directLabel}
          placeholder={words.rooms.directPlaceholder}
          go={words.rooms.direct}
          testIds={["direct-to", "direct-open"]}
          onGo={async (name) => chat.direct(name)}
        />
      </section>
    </nav>
  );
}

/** One stop for Tab; arrow keys go up and down. */
function RoomList({ rooms, testId }: { rooms: readonly Room[]; testId: string }) {
  const { chat } = useSession();
  const open = chat.open.value;
  const stop = rooms.some((room) => room.name === open) ? open : rooms[0]?.name;
  return (
    <ul
      class="rooms"
      data-testid={testId}
      onKeyDown={(event) => void moveFocus(event, event.currentTarget, "button")}
    >
      {rooms.map((room) => (
        <RoomEntry key={room.name} room={room} isOpen={room.name === open} isStop={room.name === stop} />
      ))}
    </ul>
  );
}

function RoomEntry({ room, isOpen, isStop }: { room: Room; isOpen: boolean; isStop: boolean }) {
  const app = useApp();
  const { chat } = useSession();
  const { words, number } = useLanguage();
  const online = room.partner === null ? undefined : chat.online.value.get(room.partner);
  return (
    <li>
      <button
        type="button"
        data-testid={`room-${room.name}`}
        data-unread={room.unread}
        aria-current={isOpen ? "true" : undefined}
        tabIndex={isStop ? 0 : -1}
        onClick={() => app.place.room(room.name)}
      >
        {room.partner !== null ? (
          <Avatar name={room.partner} online={online} />
        ) : (
          <span class="sign" aria-hidden="true">
            {room.isPrivate ? <Icon name="lock" /> : "#"}
          </span>
        )}
        <span class="name">
          <Name of={room.title} />
        </span>
        {room.isPrivate && <span class="unseen">, {words.rooms.isPrivate}</span>}
        {online !== undefined && <span class="unseen">, {online ? words.rooms.online : words.rooms.offline}</span>}
        {room.unread > 0 && (
          <>
            <span class="count" aria-hidden="true">
              {number(room.unread)}
            </span>
            <span class="unseen">, {words.rooms.unread(room.unread)}</span>
          </>
        )}
      </button>
    </li>
  );
}

function Invitations() {
  const app = useApp();
  const { chat } = useSession();
  const { rooms: words } = useWords();
  const invitations = chat.invitations.value;
  if (invitations.length === 0) return null;
  const attempt = (deed: () => Promise<void>) => app.notices.attempt("an invitation", deed);
  const accept = async (name: string) => app.place.room(await chat.join(name));
  return (
    <section class="invited" aria-labelledby="invitations-title">
      <header>
        <h2 id="invitations-title">{words.invitations}</h2>
      </header>
      <ul class="invitations" data-testid="invitations">
        {invitations.map(({ room, title, by }) => (
          <li key={room} data-testid={`invitation-${room}`}>
            <p>
              <strong>
                <Name of={title || room} />
              </strong>{" "}
              <span>{words.invitedBy(inText(by))}</span>
            </p>
            <button type="button" class="primary" data-testid={`accept-${room}`} onClick={() => void attempt(() => accept(room))}>
              {words.accept}
            </button>
            <button
              type="button"
              class="quiet"
              data-testid={`decline-${room}`}
              onClick={() => void attempt(() => chat.decline(room))}
            >
              {words.decline}
            </button>
            <button type="button" class="quiet" onClick={() => chat.later(room)}>
              {words.later}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

interface GoFormProps {
  label: string;
  placeholder: string;
  go: string;
  testIds: readonly [string, string];
  /** Gives the name of the room to open. */
  onGo: (name: string) => Promise<string>;
}

function GoForm({ label, placeholder, go, testIds, onGo }: GoFormProps) {
  const app = useApp();
  const text = useSignal("");
  const submit = async () => {
    const name = text.value.trim();
    if (name === "") return;
    const isOpen = await app.notices.attempt("joining", async () => {
      checkLength(name, LIMITS.roomName);
      app.place.room(await onGo(name));
    });
    if (isOpen) text.value = "";
  };
  return (
    <form
      class="inline"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <input
        aria-label={label}
        placeholder={placeholder}
        data-testid={testIds[0]}
        value={text.value}
        onInput={(event) => (text.value = event.currentTarget.value)}
        autocomplete="off"
        autocapitalize="none"
        spellcheck={false}
      />
      <button type="submit" data-testid={testIds[1]}>
        {go}
      </button>
    </form>
  );
}
