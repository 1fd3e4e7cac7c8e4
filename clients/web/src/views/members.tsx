import { useSignal } from "@preact/signals";
import { TowpathError } from "@towpath/client";

import type { Words } from "../i18n/en.ts";
import { describe } from "../i18n/errors.ts";
import { LIMITS, excess } from "../model/letters.ts";
import { inText } from "../model/names.ts";
import type { Room } from "../model/room.ts";
import { moveFocus } from "./arrow-keys.ts";
import { Avatar } from "./avatar.tsx";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Dialog } from "./dialog.tsx";
import { Field } from "./field.tsx";
import { Icon } from "./icons.tsx";
import { Name } from "./name.tsx";

const NOBODY: ReadonlyMap<string, boolean> = new Map();

/** Something that is asked about once more before it is done. */
type Deed = "remove" | "transfer" | "block";

/**
 * The members of the open room and their presence, with all that one may do about each; others can be invited. A crowd
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
  return (
    <Dialog
      title={words.members.title(inText(room.title))}
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
          <MemberEntry key={user} room={room} user={user} online={online.get(user)} />
        ))}
      </ul>
      {room.partner === null && <InviteForm room={room} />}
      {room.owner === me && (
        <div class="choices">
          <button
            type="button"
            class="quiet danger"
            data-testid="drop-room"
            aria-haspopup="dialog"
            onClick={() => (app.dialog.value = "drop")}
          >
            <Icon name="trash" />
            {words.members.drop}
          </button>
        </div>
      )}
    </Dialog>
  );
}

interface MemberEntryProps {
  room: Room;
  user: string;
  online: boolean | undefined;
}

function MemberEntry({ room, user, online }: MemberEntryProps) {
  const app = useApp();
  const { chat, me } = useSession();
  const words = useWords();
  const asked = useSignal<Deed | null>(null);
  const isBlocked = chat.blocks.has(user);
  const isMine = room.owner === me;
  const write = () => {
    app.dialog.value = null;
    app.place.room(chat.direct(user));
  };
  const attempt = async (deed: () => Promise<void>) => {
    asked.value = null;
    await app.notices.attempt(`the member ${user}`, deed);
  };
  const deeds: Record<Deed, () => Promise<void>> = {
    remove: () => chat.removeMember(room.name, user),
    transfer: () => chat.transfer(room.name, user),
    block: () => chat.block(user),
  };
  const button = (deed: Deed) => (
    <button
      type="button"
      class="quiet"
      aria-label={`${words.members[deed]}: ${inText(user)}`}
      data-testid={`${deed}-${user}`}
      onClick={() => (asked.value = deed)}
    >
      {words.members[deed]}
    </button>
  );
  return (
    <li data-testid={`member-${user}`} data-online={online}>
      <Avatar name={user} online={online} />
      <span class="name">
        <Name of={user} />
        {user === me && ` (${words.you})`}
      </span>
      {room.owner === user && <span class="badge">{words.members.owner}</span>}
      {isBlocked && <span class="badge">{words.members.blocked}</span>}
      {online !== undefined && (
        <span class="presence">{online ? words.rooms.online : words.rooms.offline}</span>
      )}
      {user !== me && asked.value === null && (
        <span class="member-deeds">
          {room.partner === null && !isBlocked && (
            <button type="button" class="quiet" aria-label={words.members.write(inText(user))} onClick={write}>
              {words.members.writeShort}
            </button>
          )}
          {isMine && button("transfer")}
          {isMine && button("remove")}
          {isBlocked ? (
            <button
              type="button"
              class="quiet"
              aria-label={`${words.members.unblock}: ${inText(user)}`}
              data-testid={`unblock-${user}`}
              onClick={() => void attempt(() => chat.unblock(user))}
            >
              {words.members.unblock}
            </button>
          ) : (
            button("block")
          )}
        </span>
      )}
      {asked.value !== null && (
        <div class="asked" role="group" aria-label={words.members[asked.value]}>
          <p>{words.members.ask[asked.value](inText(user))}</p>
          <button type="button" class="small" onClick={() => (asked.value = null)}>
            {words.cancel}
          </button>
          <button
            type="button"
            class="small primary danger"
            data-testid={`${asked.value}-${user}-go`}
            onClick={() => void attempt(deeds[asked.value!])}
          >
            {words.members[asked.value]}
          </button>
        </div>
      )}
    </li>
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
    if (name === "" || excess(name, LIMITS.user) > 0) return;
    try {
      await chat.invite(room.name, name);
      [done.value, user.value] = [name, ""];
    } catch (error) {
      const already = error instanceof TowpathError && error.code === "conflict";
      problem.value = (now) => (already ? now.members.already(inText(name)) : describe(error, now));
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
        limit={LIMITS.user}
      />
      <button type="submit" data-testid="invite">
        {words.members.invite}
      </button>
      <p class="hint" role="status">
        {done.value !== null && words.members.invited(inText(done.value))}
      </p>
    </form>
  );
}
