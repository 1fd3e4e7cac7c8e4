import { type Signal, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";

import { inText } from "../model/names.ts";
import { draftsOf } from "../model/outbox.ts";
import { type Room, lastSeenByPartner } from "../model/room.ts";
import { type Row, rowsOf } from "../model/rows.ts";
import { moveFocus } from "./arrow-keys.ts";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Icon } from "./icons.tsx";
import { DraftRow, type MessageDeeds, MessageRow } from "./message.tsx";
import { type Scrolling, useScrolling } from "./scrolling.ts";

interface LogProps {
  room: Room;
  editing: Signal<number | null>;
  deeds: MessageDeeds;
  /** Where the rest of the room finds the way to the end. */
  onReady: (scrolling: Scrolling) => void;
}

/** The messages of a room, without end towards the top. */
export function Log({ room, editing, deeds, onReady }: LogProps) {
  const { attentive } = useApp();
  const { chat, me } = useSession();
  const { words } = useLanguage();
  const isShown = useSignal(false);
  const scrolling = useScrolling(() => (isShown.value = scrolling.log.current!.clientHeight > 0));
  const { log, list, following } = scrolling;
  const isLoaded = room.history === "loaded";
  /** Whether the place to begin reading at is found: before that, nothing was seen. */
  const isPlaced = useSignal(false);
  const rows = rowsOf(room.entries, draftsOf(chat.outbox.value, room.name), { me, newSince: room.newSince });
  const seen = lastSeenByPartner(room);

  useLayoutEffect(() => onReady(scrolling), []);
  useLayoutEffect(() => {
    const divider = list.current!.querySelector<HTMLElement>(".new");
    if (isLoaded && divider !== null && room.unread > 0) scrolling.toRow(divider);
    isPlaced.value = isLoaded;
  }, [isLoaded]);
  useSignalEffect(() => {
    const watches = attentive.value && isShown.value && following.value && isPlaced.value;
    chat.watch(watches ? room.name : null);
  });
  useLayoutEffect(() => () => chat.watch(null), []);

  const onKeyDown = (event: KeyboardEvent) => {
    const onItself = event.target === log.current;
    const onRow = (event.target as HTMLElement).classList.contains("message");
    if (onRow || (onItself && event.key === "ArrowUp")) moveFocus(event, list.current!, ".message[tabindex]");
  };
  return (
    <div class="log-frame">
      <div
        ref={log}
        class="log"
        role="log"
        aria-live="off"
        aria-labelledby="room-title"
        tabIndex={0}
        onScroll={scrolling.onScroll}
        onKeyDown={onKeyDown}
      >
        {isLoaded && room.hasEarlier && <Earlier room={room.name} log={log} />}
        {isLoaded && !room.hasEarlier && rows.length > 0 && <p class="beginning">{words.conversation.beginning}</p>}
        {rows.length === 0 && <Empty room={room} />}
        <ol ref={list} data-testid="messages">
          {rows.map((row) => (
            <RowView
              key={row.key}
              row={row}
              editing={row.kind === "message" && editing.value === row.message.seq}
              seen={row.kind === "message" && seen === row.message.seq}
              deeds={deeds}
            />
          ))}
        </ol>
      </div>
      {!following.value && (
        <button type="button" class="jump" data-testid="to-end" onClick={scrolling.toEnd}>
          {room.unread > 0 ? words.conversation.newMessages(room.unread) : words.conversation.toEnd}
          <Icon name="down" />
        </button>
      )}
      <Announcer room={room.name} />
    </div>
  );
}

interface RowViewProps {
  row: Row;
  editing: boolean;
  seen: boolean;
  deeds: MessageDeeds;
}

function RowView({ row, editing, seen, deeds }: RowViewProps) {
  const { me } = useSession();
  const { words, day } = useLanguage();
  switch (row.kind) {
    case "day":
      return (
        <li class="day">
          <span>{day(row.at, Date.now())}</span>
        </li>
      );
    case "new":
      return (
        <li class="new" data-testid="new-since">
          <span>{words.conversation.newBelow}</span>
        </li>
      );
    case "note": {
      const { kind, user, seq } = row.note;
      const said = {
        joined: ["joined", "youJoined"],
        left: ["left", "youLeft"],
        removed: ["removed", "youLeft"],
        owner: ["owns", "youOwn"],
      } as const;
      const [theirs, mine] = said[kind];
      return (
        <li class="note" data-testid="note" data-seq={seq}>
          {user === me ? words.conversation[mine] : words.conversation[theirs](inText(user))}
        </li>
      );
    }
    case "message":
      return (
        <MessageRow
          message={row.message}
          together={row.together}
          isEditing={editing}
          isSeen={seen}
          deeds={deeds}
        />
      );
    case "draft":
      return <DraftRow draft={row.draft} together={row.together} />;
  }
}

/** Loads what is earlier as soon as it comes near, or on a press of the button. */
function Earlier({ room, log }: { room: string; log: { readonly current: HTMLElement | null } }) {
  const { chat } = useSession();
  const words = useWords().conversation;
  const button = useRef<HTMLButtonElement>(null);
  const isLoading = useSignal(false);
  const load = async () => {
    if (isLoading.peek()) return;
    isLoading.value = true;
    const came = await chat.loadEarlier(room);
    isLoading.value = false;
    // Seen still, it asks on; after a failure only a person does.
    if (came && button.current) watch.current?.(button.current);
  };
  const watch = useRef<((element: Element) => void) | null>(null);
  useEffect(() => {
    const near = new IntersectionObserver(
      (entries) => {
        if (entries.at(-1)?.isIntersecting) void load();
      },
      { root: log.current, rootMargin: "400px 0px 0px" },
    );
    watch.current = (element) => {
      near.unobserve(element);
      near.observe(element);
    };
    watch.current(button.current!);
    return () => near.disconnect();
  }, []);
  return (
    <button
      ref={button}
      type="button"
      class="quiet older"
      data-testid="load-older"
      aria-disabled={isLoading.value}
      onClick={() => void load()}
    >
      {isLoading.value ? words.loading : words.earlier}
    </button>
  );
}

function Empty({ room }: { room: Room }) {
  const words = useWords().conversation;
  const text =
    room.history !== "loaded"
      ? words.loading
      : room.partner === null
        ? words.empty
        : words.emptyDirect(inText(room.partner));
  return <p class="empty">{text}</p>;
}

const ANNOUNCED_EVERY_MS = 1_500;

/** Announces new messages of others to screen readers, one by one while they are few and by their number in a rush. */
function Announcer({ room }: { room: string }) {
  const { chat } = useSession();
  const { words } = useLanguage();
  const said = useSignal("");
  const waiting = useRef<string[]>([]);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  useSignalEffect(() => {
    const message = chat.heard.value;
    if (message === null || chat.open.peek() !== room) return;
    waiting.current.push(words.conversation.someoneSays(inText(message.user), message.text));
    timer.current ??= setTimeout(() => {
      const texts = waiting.current.splice(0);
      timer.current = undefined;
      said.value = texts.length > 2 ? words.conversation.newMessages(texts.length) : texts.join(" ");
    }, ANNOUNCED_EVERY_MS);
  });
  useEffect(() => () => clearTimeout(timer.current), []);
  return (
    <p class="unseen" role="status" data-testid="announcer">
      {said.value}
    </p>
  );
}
