import type { FoundRoom } from "@towpath/client";
import { useEffect, useMemo } from "preact/hooks";

import { inText } from "../model/names.ts";
import type { Finder } from "../state/finder.ts";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Name } from "./name.tsx";

const OFFERED = 5;
/** The room that is made where there is none. */
const FIRST_ROOM = "lobby";

/** Public rooms, as soon as this is on the screen. */
function useOffers(): Finder {
  const { chat } = useSession();
  const finder = useMemo(() => chat.finder(), []);
  useEffect(() => {
    finder.look("");
    return () => finder.stop();
  }, []);
  return finder;
}

function busiestFirst(rooms: readonly FoundRoom[]): readonly FoundRoom[] {
  return rooms.toSorted((one, other) => other.members - one.members);
}

/** Rooms to join, for a person who is in none. */
export function Offers() {
  const app = useApp();
  const { chat } = useSession();
  const { words } = useLanguage();
  const rooms = busiestFirst(useOffers().rooms.value).slice(0, OFFERED);
  if (rooms.length === 0) return null;
  const join = (room: string) => app.notices.attempt("joining", async () => app.place.room(await chat.join(room)));
  return (
    <>
      <p class="empty">{words.rooms.open}</p>
      <ul class="rooms offers" data-testid="offers">
        {rooms.map(({ room, title, members }) => (
          <li key={room}>
            <button type="button" data-testid={`offer-${room}`} data-unread="0" onClick={() => void join(room)}>
              <span class="sign" aria-hidden="true">
                #
              </span>
              <span class="name">
                <Name of={title} />
              </span>
              <small>{words.rooms.members(members)}</small>
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}

/** Three things to try, for a person who is in no room. */
export function Start() {
  const app = useApp();
  const { chat, me } = useSession();
  const words = useWords();
  const finder = useOffers();
  const offered = busiestFirst(finder.rooms.value)[0];
  const name = offered?.room ?? FIRST_ROOM;
  const title = inText(offered?.title ?? FIRST_ROOM);
  const join = () => app.notices.attempt("joining", async () => app.place.room(await chat.join(name)));
  return (
    <div class="nothing start" data-testid="start">
      <h2>{words.start.title(inText(me))}</h2>
      <p>{words.start.hint}</p>
      <ol>
        <li>
          <p>{words.start.room}</p>
          {finder.answered.value && (
            <button type="button" class="primary" data-testid="start-room" onClick={() => void join()}>
              {offered === undefined ? words.start.make(title) : words.start.join(title)}
            </button>
          )}
        </li>
        <li>
          <p>{words.start.person}</p>
        </li>
        <li>
          <p>{words.start.order}</p>
        </li>
      </ol>
    </div>
  );
}
