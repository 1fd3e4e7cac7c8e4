import { useEffect, useRef } from "preact/hooks";

import { useSession, useWords } from "./context.ts";
import { fit, isPlainEnter } from "./text-area.ts";

interface ComposerProps {
  room: string;
  title: string;
  onSent: () => void;
  /** Up, where nothing is typed. */
  onEditLast: () => void;
}

/** The input for messages. Typed text stays with its room. */
export function Composer({ room, title, onSent, onEditLast }: ComposerProps) {
  const { chat, connection, kept } = useSession();
  const words = useWords().conversation;
  const area = useRef<HTMLTextAreaElement>(null);
  const state = connection.state.value;

  useEffect(() => {
    fit(area.current!);
    if (matchMedia("(pointer: fine)").matches) area.current!.focus(); // elsewhere it would raise the keyboard
  }, []);

  const send = () => {
    const text = area.current!.value.trim();
    area.current!.focus();
    if (text === "" || state === "closed") return;
    area.current!.value = "";
    kept.unsent.delete(room);
    fit(area.current!);
    chat.say(room, text);
    onSent();
  };

  const placeholder = {
    open: words.placeholder(title),
    closed: words.placeholderClosed,
    connecting: words.placeholderOffline,
    recovering: words.placeholderOffline,
  }[state];
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <textarea
        ref={area}
        id="composer"
        rows={1}
        maxLength={4000}
        defaultValue={kept.unsent.get(room) ?? ""}
        aria-label={words.messageLabel}
        data-testid="message-input"
        placeholder={placeholder}
        disabled={state === "closed"}
        onInput={(event) => {
          const { value } = event.currentTarget;
          fit(event.currentTarget);
          kept.unsent.set(room, value);
          if (value.trim() !== "") chat.tellTyping(room);
        }}
        onKeyDown={(event) => {
          if (isPlainEnter(event)) send();
          else if (event.key === "ArrowUp" && !event.altKey && event.currentTarget.value === "") onEditLast();
          else return;
          event.preventDefault();
        }}
      />
      <button type="submit" class="primary" data-testid="send-message" disabled={state === "closed"}>
        {words.send}
      </button>
    </form>
  );
}
