import { useSignal } from "@preact/signals";
import { useEffect, useId, useMemo } from "preact/hooks";

import { LIMITS, checkLength } from "../model/letters.ts";
import { listed, matching } from "../model/room-list.ts";
import type { Room } from "../model/room.ts";
import { Avatar } from "./avatar.tsx";
import { useApp, useLanguage, useSession } from "./context.ts";
import { Dialog } from "./dialog.tsx";
import { Icon, type IconName } from "./icons.tsx";
import { Name } from "./name.tsx";

const SHOWN = 50;

interface Choice {
  readonly key: string;
  readonly text: string;
  /** One's own room, where it is one. */
  readonly room?: Room;
  readonly icon?: IconName;
  /** How many are in it, where it is another one. */
  readonly members?: number;
  /** Gives the room to open; null leaves the dialog open. */
  readonly go: () => Promise<string | null> | string;
}

/**
 * Finds a room or person by a few letters: one's own, then the public ones that begin so.
 * https://www.w3.org/WAI/ARIA/apg/patterns/combobox/
 */
export function Switcher() {
  const app = useApp();
  const { chat, me } = useSession();
  const { words, compare, number } = useLanguage();
  const id = useId();
  const typed = useSignal("");
  const at = useSignal(0);
  const finder = useMemo(() => chat.finder(), []);
  const name = typed.value.trim();

  useEffect(() => finder.look(name), [name]);
  useEffect(() => () => finder.stop(), []);

  const { rooms, directs } = listed(chat.rooms.value.values(), compare);
  const own: Choice[] = matching([...rooms, ...directs], typed.value)
    .slice(0, SHOWN)
    .map((room) => ({ key: room.name, room, text: room.title, go: () => room.name }));
  const mine = new Set(rooms.map((room) => room.name));
  const open: Choice[] = finder.rooms.value
    .filter(({ room }) => !mine.has(room) && room.startsWith(name))
    .map(({ room, title, members }) => ({ key: `+${room}`, text: title, members, go: () => chat.join(room) }));
  if (finder.hasMore.value) {
    const more = async () => {
      await finder.more();
      return null;
    };
    open.push({ key: "+more", text: words.rooms.more, icon: "down", go: more });
  }
  const isNew = name !== "" && ![...own, ...open].some(({ key, room }) => [key, room?.partner].includes(name));
  const made: Choice[] = [];
  if (isNew && !open.some(({ key }) => key === `+${name}`)) {
    made.push({ key: "+join", text: words.switcher.join(name), icon: "plus", go: () => chat.join(name) });
  }
  if (isNew && name !== me) {
    made.push({ key: "+write", text: words.switcher.write(name), icon: "plus", go: async () => chat.direct(name) });
  }
  const groups: [string, Choice[]][] = [
    [words.switcher.yours, own],
    [words.rooms.open, open],
    [words.switcher.other, made],
  ];
  const choices = [...own, ...open, ...made];
  const current = Math.min(at.value, choices.length - 1);
  const close = () => (app.dialog.value = null);
  const choose = async (choice: Choice | undefined) => {
    if (choice === undefined) return;
    if (choice.key === "+more") return void choice.go();
    close();
    await app.notices.attempt("joining", async () => {
      checkLength(name, LIMITS.roomName);
      const room = await choice.go();
      if (room !== null) app.place.room(room);
    });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown") at.value = (current + 1) % Math.max(1, choices.length);
    else if (event.key === "ArrowUp") at.value = (current - 1 + choices.length) % Math.max(1, choices.length);
    else if (event.key === "Enter") void choose(choices[current]);
    else return;
    event.preventDefault();
  };
  return (
    <Dialog title={words.switcher.title} onClose={close} class="switcher" testId="switcher">
      <input
        role="combobox"
        aria-label={words.switcher.label}
        aria-expanded="true"
        aria-controls={`${id}-list`}
        aria-activedescendant={current >= 0 ? `${id}-${current}` : undefined}
        aria-autocomplete="list"
        autocomplete="off"
        autocapitalize="none"
        spellcheck={false}
        autofocus
        data-testid="switcher-input"
        placeholder={words.switcher.placeholder}
        value={typed.value}
        onInput={(event) => {
          typed.value = event.currentTarget.value;
          at.value = 0;
        }}
        onKeyDown={onKeyDown}
      />
      <div class="choices-list" role="listbox" id={`${id}-list`} aria-label={words.switcher.label}>
        {groups
          .filter(([, group]) => group.length > 0)
          .map(([label, group]) => (
            <div key={label} role="group" aria-label={label}>
              <p class="choices-title" aria-hidden="true">
                {label}
              </p>
              {group.map((choice) => {
                const index = choices.indexOf(choice);
                return (
                  <div
                    key={choice.key}
                    id={`${id}-${index}`}
                    class="choice"
                    role="option"
                    aria-selected={index === current}
                    data-testid={`choice-${choice.key}`}
                    ref={(element) => {
                      if (index === current) element?.scrollIntoView({ block: "nearest" });
                    }}
                    onClick={() => void choose(choice)}
                  >
                    <ChoiceSign choice={choice} />
                    <span class="name">
                      <Name of={choice.text} />
                    </span>
                    {choice.members !== undefined && <small>{words.rooms.members(choice.members)}</small>}
                    {choice.room !== undefined && choice.room.unread > 0 && (
                      <span class="count" aria-label={words.rooms.unread(choice.room.unread)}>
                        {number(choice.room.unread)}
                      </span>
                    )}
                  </div>
                );
              })}
            </div>
          ))}
      </div>
      {name !== "" && open.length === 0 && finder.answered.value && (
        <p class="hint" data-testid="nothing-found">
          {words.switcher.nothing(name)}
        </p>
      )}
      <p class="unseen" role="status">
        {words.switcher.results(choices.length)}
      </p>
    </Dialog>
  );
}

function ChoiceSign({ choice: { room, icon } }: { choice: Choice }) {
  if (room?.partner) return <Avatar name={room.partner} />;
  return (
    <span class="sign" aria-hidden="true">
      {icon !== undefined ? <Icon name={icon} /> : room?.isPrivate ? <Icon name="lock" /> : "#"}
    </span>
  );
}
