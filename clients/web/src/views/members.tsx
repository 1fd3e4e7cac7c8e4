import { useSignal } from "@preact/signals";
import { TowpathError } from "@towpath/client";

import type { Words } from "../i18n/en.ts";
import { describe } from "../i18n/errors.ts";
import type { Room } from "../model/room.ts";
import { moveFocus } from "./arrow-keys.ts";
import { Avatar } from "./avatar.tsx";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Dialog } from "./dialog.tsx";
import { Field } from "./field.tsx";

const NOBODY: ReadonlyMap<string, boolean> = new Map();

/**
 * The members of the open room and their presence; each is a link to write to them, and others can be invited. A crowd
 * has no pushes about single members, so only the numbers are shown.
 */
export function Members() {
  const app = useApp();
  const { chat, me } = useSession();
  const { words, compare } = useLanguage();
  const room = chat.rooms.value.get(chat.open.value ?? "");
  if (room === undefined) return null;
  const online = room.crowd === null ? chat.online.value : NOBODY;
  const rank = (user: string) => (online.get(user) ? 0 : 1);
  const members = [...(room.members ?? [])].sort((one, other) => rank(one) - rank(other) || compare(one, other));
  const write = (user: string) => {
    app.dialog.value = null;
    app.place.room(chat.direct(user));
  };
  return (
    <Dialog
      title={words.members.title(room.title)}
      onClose={() => (app.dialog.value = null)}
      class="narrow"
      testId="members-dialog"
    >
      {room.members === null && <p class="empty">{words.members.unknown}</p>}
      {room.crowd !== null && (
        <p class="hint">
          <span data-testid="members-counted">{words.members.summary(room.crowd.members, room.crowd.online)}</span>
          {members.length < room.crowd.members && (
            <>
              <br />
              <span data-testid="members-listed">{words.members.listed(members.length, room.crowd.members)}</span>
            </>
          )}
        </p>
      )}
      <ul
        class="members"
        data-testid="members"
        onKeyDown={(event) => void moveFocus(event, event.currentTarget, "button")}
      >
        {members.map((user) => (
          <li key={user} data-testid={`member-${user}`} data-online={online.get(user)}>
            <Avatar name={user} online={online.get(user)} />
            <span class="name">{user === me ? `${user} (${words.you})` : user}</span>
            {online.has(user) && (
              <span class="presence">{online.get(user) ? words.rooms.online : words.rooms.offline}</span>
            )}
            {user !== me && room.partner === null && (
              <button type="button" class="quiet" onClick={() => write(user)}>
                {words.members.write(user)}
              </button>
            )}
          </li>
        ))}
      </ul>
      {room.partner === null && <InviteForm room={room} />}
    </Dialog>
  );
}

function InviteForm({ room }: { room: Room }) {
  const { chat } = useSession();
  const words = useWords();
  const user = useSignal("");
  const problem = useSignal<((words: Words) => string) | null>(null);
  const done = useSignal<string | null>(null);
  const invite = async () => {
    const name = user.value.trim();
    [problem.value, done.value] = [null, null];
    if (name === "") return;
    try {
      await chat.invite(room.name, name);
      [done.value, user.value] = [name, ""];
    } catch (error) {
      const already = error instanceof TowpathError && error.code === "conflict";
      problem.value = (now) => (already ? now.members.already(name) : describe(error, now));
    }
  };
  return (
    <form
      class="invite"
      onSubmit={(event) => {
        event.preventDefault();
        void invite();
      }}
    >
      <Field
        label={words.members.inviteLabel}
        problem={problem.value?.(words) ?? ""}
        value={user.value}
        onText={(text) => (user.value = text)}
        data-testid="invite-user"
        autocapitalize="none"
        spellcheck={false}
        maxLength={128}
      />
      <button type="submit" data-testid="invite">
        {words.members.invite}
      </button>
      <p class="hint" role="status">
        {done.value !== null && words.members.invited(done.value)}
      </p>
    </form>
  );
}
