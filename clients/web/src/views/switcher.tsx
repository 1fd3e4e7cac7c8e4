import { useSignal } from "@preact/signals";
import { useId } from "preact/hooks";

import { listed, matching } from "../model/room-list.ts";
import type { Room } from "../model/room.ts";
import { Avatar } from "./avatar.tsx";
import { useApp, useLanguage, useSession } from "./context.ts";
import { Dialog } from "./dialog.tsx";
import { Icon } from "./icons.tsx";
import { Name } from "./name.tsx";

const SHOWN = 50;

interface Choice {
  readonly key: string;
  readonly room: Room | null;
  readonly text: string;
  readonly go: () => Promise<string> | string;
}

/** Finds a room or person by a few letters: https://www.w3.org/WAI/ARIA/apg/patterns/combobox/ */
export function Switcher() {
  const app = useApp();
  const { chat, me } = useSession();
  const { words, compare, number } = useLanguage();
  const id = useId();
  const typed = useSignal("");
  const at = useSignal(0);

  const { rooms, directs } = listed(chat.rooms.value.values(), compare);
  const found = matching([...rooms, ...directs], typed.value).slice(0, SHOWN);
  const name = typed.value.trim();
  const isNew = name !== "" && !found.some((room) => room.name === name || room.partner === name);
  const choices: Choice[] = found.map((room) => ({ key: room.name, room, text: room.title, go: () => room.name }));
  if (isNew) {
    choices.push({ key: "+join", room: null, text: words.switcher.join(name), go: () => chat.join(name) });
    if (name !== me) {
      choices.push({ key: "+write", room: null, text: words.switcher.write(name), go: () => chat.direct(name) });
    }
  }
  const current = Math.min(at.value, choices.length - 1);
  const close = () => (app.dialog.value = null);
  const choose = async (choice: Choice | undefined) => {
    if (choice === undefined) return;
    close();
    try {
      app.place.room(await choice.go());
    } catch (error) {
      app.notices.problem(error);
    }
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
      <ul class="choices-list" role="listbox" id={`${id}-list`} aria-label={words.switcher.label}>
        {choices.map((choice, index) => (
          <li
            key={choice.key}
            id={`${id}-${index}`}
            role="option"
            aria-selected={index === current}
            ref={(element) => {
              if (index === current) element?.scrollIntoView({ block: "nearest" });
            }}
            onClick={() => void choose(choice)}
          >
            <ChoiceSign room={choice.room} />
            <span class="name">
              <Name of={choice.text} />
            </span>
            {choice.room !== null && choice.room.unread > 0 && (
              <span class="count" aria-label={words.rooms.unread(choice.room.unread)}>
                {number(choice.room.unread)}
              </span>
            )}
          </li>
        ))}
      </ul>
      <p class="unseen" role="status">
        {words.switcher.results(choices.length)}
      </p>
    </Dialog>
  );
}

function ChoiceSign({ room }: { room: Room | null }) {
  if (room?.partner) return <Avatar name={room.partner} />;
  return (
    <span class="sign" aria-hidden="true">
      {room === null ? <Icon name="plus" /> : room.isPrivate ? <Icon name="lock" /> : "#"}
    </span>
  );
}
