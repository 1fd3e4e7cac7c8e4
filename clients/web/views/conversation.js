/**
 * The open room: what was said, what is on its way, who types, and where to write.
 */
import { avatar } from "./avatar.js";
import { byId, el, reconcile } from "./dom.js";
import { showProblem } from "./notices.js";

/** Messages of one person that follow within this time stand together. */
const TOGETHER_MS = 5 * 60_000;

/** So near to the end counts as reading along. */
const NEAR_END_PX = 60;

const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

/**
 * @param {import("../chat.js").Chat} chat
 * @param {import("@towpath/client").Client} client
 * @param {string} me
 * @param {{back: () => void, signal: AbortSignal}} options
 * @returns {() => void} shows what is there now
 */
export function showConversation(chat, client, me, { back, signal }) {
  const [log, input] = [byId("log"), byId("message-input")];
  /** @type {import("../model/room.js").Room | null} */
  let shown = null;
  let following = true;
  let span = { first: 0, last: 0 };

  const items = (room) => {
    const rows = [];
    let before = null;
    for (const entry of room.entries) {
      const day = entry.sent_at === undefined ? before?.day : DAY.format(entry.sent_at);
      if (day !== undefined && day !== before?.day) rows.push({ kind: "day", key: `day ${day}`, day });
      const together =
        !entry.note &&
        !before?.note &&
        before?.user === entry.user &&
        before.day === day &&
        entry.sent_at - before.sent_at < TOGETHER_MS;
      const kind = entry.note ? "note" : "message";
      rows.push({ kind, key: `${kind} ${entry.seq} ${together}`, entry, together });
      before = { ...entry, day };
    }
    for (const draft of room.drafts) {
      rows.push({ kind: "draft", key: `draft ${draft.ref} ${draft.problem}`, draft });
    }
    return rows;
  };

  const builders = {
    day: ({ day }) => el("li", { class: "day" }, el("span", {}, day)),
    note: ({ entry: { seq, user, note } }) =>
      el("li", { class: "note", "data-testid": "note", "data-seq": seq }, `${user === me ? "You" : user} ${note}`),
    message: ({ entry, together }) => {
      const mine = entry.user === me;
      return el(
        "li",
        {
          class: ["message", mine && "mine", together && "together"].filter(Boolean).join(" "),
          "data-testid": "message",
          "data-seq": entry.seq,
          "data-user": entry.user,
        },
        !mine && avatar(entry.user),
        el(
          "div",
          { class: "said" },
          el(
            "p",
            { class: "by" },
            el("span", { class: mine ? "unseen" : "author" }, mine ? "You" : entry.user),
            " ",
            el("time", { datetime: new Date(entry.sent_at).toISOString() }, TIME.format(entry.sent_at)),
          ),
          el("p", { class: "text", "data-testid": "text", dir: "auto" }, entry.text),
        ),
      );
    },
    draft: ({ draft }) =>
      el(
        "li",
        { class: `message mine draft ${draft.problem ? "failed" : ""}`, "data-testid": "draft" },
        el(
          "div",
          { class: "said" },
          el("p", { class: "text", dir: "auto" }, draft.text),
          draft.problem
            ? el(
                "p",
                { class: "problem" },
                `Not sent. ${draft.problem} `,
                el("button", { type: "button", class: "quiet", onclick: () => chat.again(shown, draft) }, "Try again"),
                el("button", { type: "button", class: "quiet", onclick: () => discard(draft) }, "Discard"),
              )
            : el("p", { class: "by" }, "on its way"),
        ),
      ),
  };

  const discard = (draft) => {
    shown.discard(draft.ref);
    render();
  };

  const send = () => {
    const text = input.value.trim();
    if (text === "" || !shown || client.state === "closed") return;
    input.value = "";
    fit(input);
    chat.say(shown, text);
    toEnd();
    input.focus();
  };

  const toEnd = () => {
    following = true;
    log.scrollTop = log.scrollHeight;
    byId("jump").hidden = true;
  };

  byId("message-form").addEventListener(
    "submit",
    (event) => {
      event.preventDefault();
      send();
    },
    { signal },
  );
  input.addEventListener(
    "keydown",
    (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      send();
    },
    { signal },
  );
  input.addEventListener(
    "input",
    () => {
      fit(input);
      if (shown && input.value.trim() !== "") chat.tellTyping(shown);
    },
    { signal },
  );
  byId("older").addEventListener("click", () => loadEarlier(), { signal });
  byId("jump").addEventListener("click", toEnd, { signal });
  log.addEventListener(
    "scroll",
    () => {
      following = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
      if (following) byId("jump").hidden = true;
    },
    { signal },
  );
  const resized = new ResizeObserver(() => following && toEnd()); // a banner, a keyboard, a longer draft
  resized.observe(log);
  signal.addEventListener("abort", () => resized.disconnect());
  byId("leave-room").addEventListener("click", () => shown && leave(shown.name), { signal });
  byId("room-back").addEventListener("click", back, { signal });

  const leave = async (name) => {
    try {
      await chat.leave(name);
      back();
    } catch (error) {
      showProblem(error);
    }
  };

  const loadEarlier = async () => {
    byId("older").disabled = true;
    await chat.loadEarlier(shown);
    byId("older").disabled = false;
  };

  function render() {
    const room = chat.open;
    const isOther = room !== shown;
    shown = room;
    byId("room").hidden = room === null;
    byId("no-room").hidden = room !== null;
    if (room === null) return;

    if (isOther) following = true;
    const fromEnd = log.scrollHeight - log.scrollTop;
    byId("room-title").textContent = room.title;
    byId("room-members").textContent = room.direct ? "Direct messages" : memberLine(room.members);
    byId("leave-room").hidden = room.direct;
    byId("older").hidden = !room.hasEarlier;
    const rows = items(room);
    byId("log-empty").textContent = rows.length > 0 ? "" : room.loaded ? "Nothing said here yet. Begin." : "Loading…";
    log.setAttribute("aria-busy", String(!room.loaded));
    reconcile(
      byId("messages"),
      rows,
      (row) => `${room.name} ${row.key}`,
      (row) => builders[row.kind](row),
    );
    byId("typing").textContent = typingLine(room.typing);

    const [first, last] = [room.entries[0]?.seq ?? 0, room.entries.at(-1)?.seq ?? 0];
    if (following) toEnd();
    else if (last > span.last) byId("jump").hidden = false;
    else if (first < span.first) log.scrollTop = log.scrollHeight - fromEnd; // what one reads stays where it is
    span = { first, last };
    if (isOther) {
      input.value = "";
      fit(input);
      if (matchMedia("(pointer: fine)").matches) input.focus(); // elsewhere it would raise the keyboard
    }
  }

  const readiness = (state) => {
    if (signal.aborted) return;
    input.disabled = byId("send-message").disabled = state === "closed";
    input.placeholder = state === "open" ? "Write a message" : "No connection; messages leave once it is back";
    if (state === "closed") input.placeholder = "The connection is closed";
  };
  client.onState(readiness);
  readiness(client.state);
  signal.addEventListener("abort", () => reconcile(byId("messages"), [], String, () => el("li")));

  return render;
}

/** Makes a text area as high as its text. */
function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

function memberLine(members) {
  if (members === null) return "";
  const names = [...members].sort((one, other) => one.localeCompare(other));
  const shown = names.slice(0, 6).join(", ");
  return names.length > 6 ? `${shown} and ${names.length - 6} more` : shown;
}

function typingLine(users) {
  const names = [...users];
  if (names.length === 0) return "";
  if (names.length > 2) return "Several people are typing…";
  return `${names.join(" and ")} ${names.length === 1 ? "is" : "are"} typing…`;
}
