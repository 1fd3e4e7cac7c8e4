import { useSignal } from "@preact/signals";
import { useMemo, useRef } from "preact/hooks";

import { inText } from "../model/names.ts";
import { type Room, lastOwn } from "../model/room.ts";
import { Composer } from "./composer.tsx";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Avatar } from "./avatar.tsx";
import { Confirm } from "./dialog.tsx";
import { Icon } from "./icons.tsx";
import { Log } from "./log.tsx";
import type { MessageDeeds } from "./message.tsx";
import { Name } from "./name.tsx";
import type { Scrolling } from "./scrolling.ts";
import { Start } from "./start.tsx";

/** The open room, or that there is none. */
export function Conversation() {
  const { chat } = useSession();
  const words = useWords();
  const name = chat.open.value;
  const room = name === null ? undefined : chat.rooms.value.get(name);
  const isNew = chat.listed.value && ![...chat.rooms.value.values()].some(({ history }) => history !== "stranger");
  return (
    <section class="conversation" aria-label={room?.title ?? words.tabs.chat}>
      {name === null && isNew ? (
        <Start />
      ) : name === null ? (
        <div class="nothing">
          <h2>{words.conversation.nothing}</h2>
          <p>{words.conversation.nothingHint}</p>
        </div>
      ) : room === undefined ? (
        <div class="nothing">
          <p>{words.conversation.loading}</p>
        </div>
      ) : room.history === "stranger" ? (
        <Stranger room={room} />
      ) : (
        <OpenRoom key={name} room={room} />
      )}
    </section>
  );
}

function OpenRoom({ room }: { room: Room }) {
  const { chat } = useSession();
  const words = useWords();
  const editing = useSignal<number | null>(null);
  const removing = useSignal<number | null>(null);
  const app = useApp();
  const scrolling = useRef<Scrolling | null>(null);
  const { name } = room;
  const deeds = useMemo<MessageDeeds>(() => {
    const toComposer = () => document.getElementById("composer")?.focus();
    return {
      edit: (seq) => (editing.value = seq),
      save: async (seq, text) => {
        await chat.edit(name, seq, text);
        deeds.stopEditing();
      },
      stopEditing: () => {
        editing.value = null;
        toComposer();
      },
      remove: (seq) => (removing.value = seq),
      leave: toComposer,
    };
  }, []);
  const remove = (seq: number) => app.notices.attempt("deleting a message", () => chat.remove(name, seq));
  return (
    <div class="room">
      <RoomHeader room={room} />
      <Log room={room} editing={editing} deeds={deeds} onReady={(ready) => (scrolling.current = ready)} />
      <TypingLine room={name} />
      <Composer
        room={name}
        title={inText(room.title)}
        onSent={() => scrolling.current?.toEnd()}
        onEditLast={() => (editing.value = lastOwn(room)?.seq ?? null)}
      />
      {removing.value !== null && (
        <Confirm
          title={words.conversation.removeTitle}
          hint={words.conversation.removeHint}
          go={words.conversation.remove}
          onGo={() => void remove(removing.value!)}
          onClose={() => (removing.value = null)}
        />
      )}
    </div>
  );
}

function RoomHeader({ room }: { room: Room }) {
  const app = useApp();
  const { chat } = useSession();
  const { words } = useLanguage();
  const online = chat.online.value;
  const known = room.members?.some((user) => online.has(user)) ?? false;
  const summary = () => {
    if (room.partner !== null) {
      const there = online.get(room.partner);
      return there === undefined ? "" : there ? words.rooms.online : words.rooms.offline;
    }
    if (room.crowd !== null) return words.members.summary(room.crowd.members, room.crowd.online);
    if (room.members === null) return "";
    const here = room.members.filter((user) => online.get(user)).length;
    return words.members.summary(room.members.length, known ? here : null);
  };
  return (
    <header class="room-header">
      <button
        type="button"
        class="quiet icon-only back"
        aria-label={words.conversation.back}
        onClick={() => app.place.room(null)}
      >
        <Icon name="back" />
      </button>
      {room.partner !== null && <Avatar name={room.partner} online={online.get(room.partner)} />}
      <div class="heading">
        <h2 id="room-title" data-testid="room-title">
          {room.isPrivate && <Icon name="lock" />}
          <Name of={room.title} />
          {room.partner === null && room.title !== room.name && (
            <small>
              {" "}
              <Name of={room.name} />
            </small>
          )}
        </h2>
        <p data-testid="room-members">{summary()}</p>
      </div>
      {room.partner !== null && room.partner !== room.me && <BlockButton user={room.partner} />}
      {room.partner === null && (
        <>
          <button
            type="button"
            class="quiet"
            data-testid="show-members"
            aria-haspopup="dialog"
            onClick={() => {
              void chat.loadMembers(room.name);
              app.dialog.value = "members";
            }}
          >
            <Icon name="people" />
            <span class="wide">{words.members.show}</span>
          </button>
          <button
            type="button"
            class="quiet"
            data-testid="leave-room"
            aria-haspopup="dialog"
            onClick={() => (app.dialog.value = "leave")}
          >
            {words.conversation.leave}
          </button>
        </>
      )}
    </header>
  );
}

/** Blocks the other user of a room of two, or ends the block. */
function BlockButton({ user }: { user: string }) {
  const app = useApp();
  const { chat } = useSession();
  const words = useWords();
  const isBlocked = chat.blocks.has(user);
  const isAsking = useSignal(false);
  const attempt = (deed: () => Promise<void>) => app.notices.attempt(`the member ${user}`, deed);
  return (
    <>
      <button
        type="button"
        class="quiet"
        data-testid="block-partner"
        aria-haspopup={isBlocked ? undefined : "dialog"}
        onClick={() => (isBlocked ? void attempt(() => chat.unblock(user)) : (isAsking.value = true))}
      >
        {isBlocked ? words.members.unblock : words.members.block}
      </button>
      {isAsking.value && (
        <Confirm
          title={words.members.ask.block(inText(user))}
          hint={words.members.blockHint}
          go={words.members.block}
          onGo={() => void attempt(() => chat.block(user))}
          onClose={() => (isAsking.value = false)}
        />
      )}
    </>
  );
}

/** Asks before the open room is deleted, for all its members. */
export function DropRoom() {
  const app = useApp();
  const { chat } = useSession();
  const words = useWords().members;
  const room = chat.rooms.value.get(chat.open.value ?? "");
  if (room === undefined) return null;
  const drop = () => app.notices.attempt("leaving", () => chat.dropRoom(room.name));
  return (
    <Confirm
      title={words.dropTitle(inText(room.title))}
      hint={words.dropHint}
      go={words.drop}
      onGo={() => void drop()}
      onClose={() => (app.dialog.value = null)}
    />
  );
}

/** Asks before one leaves the open room. */
export function LeaveRoom() {
  const app = useApp();
  const { chat } = useSession();
  const words = useWords().conversation;
  const room = chat.rooms.value.get(chat.open.value ?? "");
  if (room === undefined) return null;
  const leave = () => app.notices.attempt("leaving", () => chat.leave(room.name));
  return (
    <Confirm
      title={words.leaveTitle(inText(room.title))}
      hint={room.owner === room.me ? words.leaveOwned : room.isPrivate ? words.leavePrivate : words.leavePublic}
      go={words.leave}
      onGo={() => void leave()}
      onClose={() => (app.dialog.value = null)}
    />
  );
}

/** A room that one is not in, such as from a link. */
function Stranger({ room }: { room: Room }) {
  const app = useApp();
  const { chat } = useSession();
  const words = useWords();
  const join = () => app.notices.attempt("joining", () => chat.join(room.name));
  return (
    <div class="nothing" data-testid="stranger">
      <h2>{words.conversation.stranger(inText(room.title))}</h2>
      <p>{words.conversation.strangerHint}</p>
      <div class="choices">
        <button type="button" onClick={() => app.place.room(null)}>
          {words.conversation.back}
        </button>
        <button type="button" class="primary" data-testid="join-stranger" onClick={() => void join()}>
          {words.rooms.join}
        </button>
      </div>
    </div>
  );
}

function TypingLine({ room }: { room: string }) {
  const { chat } = useSession();
  const words = useWords().conversation;
  const names = [...(chat.typing.value.get(room)?.keys() ?? [])];
  return (
    <p class="typing" data-testid="typing">
      {names.length > 0 && words.typing(names.map(inText))}
    </p>
  );
}
