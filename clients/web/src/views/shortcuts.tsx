import { useEffect } from "preact/hooks";

import { listed, neighbour } from "../model/room-list.ts";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Dialog } from "./dialog.tsx";

const isApple = /Mac|iP(hone|ad|od)/.test(navigator.platform);

/** The keys that work everywhere on the page. */
export function useShortcuts(): void {
  const app = useApp();
  const { chat } = useSession();
  const { compare } = useLanguage();
  useEffect(() => {
    const step = (by: 1 | -1) => {
      const { rooms, directs } = listed(chat.rooms.peek().values(), compare);
      const next = neighbour([...rooms, ...directs], chat.open.peek(), by);
      if (next !== null) app.place.room(next.name);
    };
    const deedOf = (event: KeyboardEvent): (() => void) | null => {
      const { key, altKey, ctrlKey, metaKey } = event;
      if ((isApple ? metaKey : ctrlKey) && !altKey && key.toLowerCase() === "k") {
        return () => (app.dialog.value = "switcher");
      }
      if (altKey && !ctrlKey && !metaKey && key === "ArrowDown") return () => step(1);
      if (altKey && !ctrlKey && !metaKey && key === "ArrowUp") return () => step(-1);
      if (key === "?" && !ctrlKey && !metaKey && !isField(event.target)) return () => (app.dialog.value = "shortcuts");
      return null;
    };
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
      const deed = deedOf(event);
      if (deed === null) return;
      event.preventDefault();
      deed();
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, [chat, compare]);
}

function isField(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("input, textarea, select, [contenteditable]");
}

/** The meaning of the keys. */
export function ShortcutList() {
  const app = useApp();
  const { shortcuts: words } = useWords();
  const { keys } = words;
  const control = isApple ? "⌘" : "Ctrl";
  const alt = isApple ? "⌥" : "Alt";
  const all: [string[], string][] = [
    [[`${control} K`], words.switcher],
    [["?"], words.help],
    [[`${alt} ↓`], words.next],
    [[`${alt} ↑`], words.previous],
    [[keys.enter], words.send],
    [[`${keys.shift} ${keys.enter}`], words.newline],
    [["↑"], words.editLast],
    [["↑", "↓"], words.move],
    [[keys.home, keys.end], words.ends],
    [["E", keys.enter], words.edit],
    [[keys.delete], words.remove],
    [[keys.escape], words.escape],
  ];
  return (
    <Dialog title={words.title} onClose={() => (app.dialog.value = null)} class="narrow" testId="shortcuts">
      <dl class="keys">
        {all.map(([strokes, what]) => (
          <div key={what}>
            <dt>
              {strokes.map((stroke, index) => (
                <span key={stroke}>
                  {index > 0 && ` ${keys.or} `}
                  <kbd>{stroke}</kbd>
                </span>
              ))}
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
