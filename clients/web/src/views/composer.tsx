import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";

import { LIMITS, excess } from "../model/letters.ts";
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
  const { problems } = useWords();
  const area = useRef<HTMLTextAreaElement>(null);
  const tooMany = useSignal(excess(kept.unsent.get(room) ?? "", LIMITS.message));
  const state = connection.state.value;

  // Before the room is seen: a person who acts on what is there must not have the focus taken away.
  useLayoutEffect(() => {
    fit(area.current!);
    if (matchMedia("(pointer: fine)").matches) area.current!.focus(); // elsewhere it would raise the keyboard
  }, []);

  const send = () => {
    const text = area.current!.value.trim();
    area.current!.focus();
    if (text === "" || state === "closed" || tooMany.value > 0) return;
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
      <p class="problem" id="composer-problem" role="alert" data-testid="message-problem">
        {tooMany.value > 0 && problems.tooLong(tooMany.value, LIMITS.message)}
      </p>
      <textarea
        ref={area}
        id="composer"
        rows={1}
        defaultValue={kept.unsent.get(room) ?? ""}
        aria-label={words.messageLabel}
        aria-invalid={tooMany.value > 0}
        aria-describedby="composer-problem"
        data-testid="message-input"
        placeholder={placeholder}
        disabled={state === "closed"}
        onInput={(event) => {
          const { value } = event.currentTarget;
          fit(event.currentTarget);
          kept.unsent.set(room, value);
          tooMany.value = excess(value, LIMITS.message);
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
