import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";

import { describe } from "../i18n/errors.ts";
import { LIMITS, excess } from "../model/letters.ts";
import type { Draft } from "../model/outbox.ts";
import type { Message } from "../model/room.ts";
import { Avatar } from "./avatar.tsx";
import { useLanguage, useSession, useWords } from "./context.ts";
import { Icon } from "./icons.tsx";
import { Linked } from "./linked.tsx";
import { Name } from "./name.tsx";
import { fit, isPlainEnter } from "./text-area.ts";

/** The actions for a message of one's own. */
export interface MessageDeeds {
  edit(seq: number): void;
  save(seq: number, text: string): Promise<void>;
  stopEditing(): void;
  remove(seq: number): void;
  leave(): void;
}

interface MessageRowProps {
  message: Message;
  together: boolean;
  isEditing: boolean;
  isSeen: boolean;
  deeds: MessageDeeds;
}

/** One message. It takes the focus by arrow keys or a tap, and shows then what can be done with it. */
export function MessageRow({ message, together, isEditing, isSeen, deeds }: MessageRowProps) {
  const { chat, me } = useSession();
  const { words, time, moment } = useLanguage();
  const { seq, user, text, sentAt, editedAt } = message;
  const isWanted = useSignal(false);
  const isBlocked = chat.blocks.has(user) && !isWanted.value && !message.deleted;
  const isMine = user === me;
  const canChange = isMine && !message.deleted && !isEditing;
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") deeds.leave();
    else if (canChange && (event.key === "e" || event.key === "Enter")) deeds.edit(seq);
    else if (canChange && event.key === "Delete") deeds.remove(seq);
    else return;
    event.preventDefault();
  };
  return (
    <li
      class={["message", isMine && "mine", together && "together"].filter(Boolean).join(" ")}
      data-testid="message"
      data-seq={seq}
      data-user={user}
      tabIndex={-1}
      onKeyDown={onKeyDown}
    >
      {!isMine && <Avatar name={user} />}
      <div class="said">
        <p class="by">
          <span class={isMine ? "unseen" : "author"}>{isMine ? words.you : <Name of={user} />}</span>{" "}
          <time datetime={new Date(sentAt).toISOString()}>{time(sentAt)}</time>
        </p>
        {isEditing ? (
          <EditForm text={text} onSave={(changed) => deeds.save(seq, changed)} onCancel={deeds.stopEditing} />
        ) : isBlocked ? (
          <p class="text deleted" data-testid="blocked-text">
            {words.conversation.blocked}{" "}
            <button type="button" class="quiet" onClick={() => (isWanted.value = true)}>
              {words.conversation.showBlocked}
            </button>
          </p>
        ) : message.deleted ? (
          <p class="text deleted" data-testid="text">
            {words.conversation.deleted}
          </p>
        ) : (
          <p class="text" data-testid="text" dir="auto">
            <Linked text={text} />
          </p>
        )}
        {editedAt !== null && !message.deleted && (
          <p class="mark" data-testid="edited" title={words.conversation.editedAt(moment(editedAt, Date.now()))}>
            {words.conversation.edited}
          </p>
        )}
        {isSeen && (
          <p class="mark" data-testid="seen">
            {words.conversation.seen}
          </p>
        )}
      </div>
      {canChange && (
        <div class="deeds">
          <button
            type="button"
            class="quiet icon-only"
            data-testid="edit-message"
            aria-label={words.conversation.edit}
            title={words.conversation.edit}
            onClick={() => deeds.edit(seq)}
          >
            <Icon name="pencil" />
          </button>
          <button
            type="button"
            class="quiet icon-only danger"
            data-testid="delete-message"
            aria-label={words.conversation.remove}
            title={words.conversation.remove}
            onClick={() => deeds.remove(seq)}
          >
            <Icon name="trash" />
          </button>
        </div>
      )}
    </li>
  );
}

interface EditFormProps {
  text: string;
  onSave: (text: string) => Promise<void>;
  onCancel: () => void;
}

function EditForm({ text, onSave, onCancel }: EditFormProps) {
  const words = useWords();
  const area = useRef<HTMLTextAreaElement>(null);
  const problem = useSignal<unknown>(null);
  const isBusy = useSignal(false);
  const tooMany = useSignal(0);
  // Before it is seen, as in the composer.
  useLayoutEffect(() => {
    const element = area.current!;
    element.focus();
    element.setSelectionRange(text.length, text.length);
    fit(element);
  }, []);
  const save = async () => {
    const changed = area.current!.value.trim();
    if (changed === "" || changed === text) return onCancel();
    if (tooMany.value > 0) return area.current!.focus();
    isBusy.value = true;
    problem.value = null;
    try {
      await onSave(changed);
    } catch (error) {
      problem.value = error;
      isBusy.value = false;
      area.current?.focus();
    }
  };
  return (
    <form
      class="editing"
      onSubmit={(event) => {
        event.preventDefault();
        void save();
      }}
    >
      <textarea
        ref={area}
        rows={1}
        defaultValue={text}
        aria-invalid={tooMany.value > 0}
        aria-label={words.conversation.editLabel}
        data-testid="edit-input"
        readOnly={isBusy.value}
        onInput={(event) => {
          fit(event.currentTarget);
          tooMany.value = excess(event.currentTarget.value, LIMITS.message);
        }}
        onKeyDown={(event) => {
          if (event.key === "Escape") onCancel();
          else if (isPlainEnter(event)) void save();
          else return;
          event.preventDefault();
        }}
      />
      <p class="problem" role="alert">
        {tooMany.value > 0
          ? words.problems.tooLong(tooMany.value, LIMITS.message)
          : problem.value !== null && describe(problem.value, words)}
      </p>
      <div class="choices">
        <button type="button" class="quiet" onClick={onCancel}>
          {words.cancel}
        </button>
        <button type="submit" class="primary small" data-testid="save-edit" disabled={isBusy.value}>
          {words.conversation.save}
        </button>
      </div>
    </form>
  );
}

interface DraftRowProps {
  draft: Draft;
  together: boolean;
}

/** A message on its way, or one that did not make it. */
export function DraftRow({ draft, together }: DraftRowProps) {
  const { chat } = useSession();
  const { words, time } = useLanguage();
  const { problem, at } = draft;
  return (
    <li
      class={["message mine draft", problem && "failed", together && "together"].filter(Boolean).join(" ")}
      data-testid="draft"
    >
      <div class="said">
        <p class="by">
          <span class="unseen">{words.you}</span> <time datetime={new Date(at).toISOString()}>{time(at)}</time>
        </p>
        <p class="text" dir="auto">
          {draft.text}
        </p>
        {problem === null ? (
          <p class="mark">{words.conversation.sending}</p>
        ) : (
          <div class="trouble">
            <p class="problem">
              {problem.uncertain
                ? words.conversation.notConfirmed
                : `${words.conversation.notSent} ${describe(problem.error, words)}`}
            </p>
            <button type="button" class="quiet" data-testid="try-again" onClick={() => chat.again(draft)}>
              {words.conversation.tryAgain}
            </button>
            <button type="button" class="quiet" data-testid="discard" onClick={() => chat.discard(draft)}>
              {words.conversation.discard}
            </button>
          </div>
        )}
      </div>
    </li>
  );
}
