/**
 * The lists of rooms and of people one writes to, and the two forms that add to them.
 */
import { avatar } from "./avatar.js";
import { byId, el, reconcile } from "./dom.js";
import { showProblem } from "./notices.js";

/**
 * @param {import("../chat.js").Chat} chat
 * @param {string} me
 * @param {{opened: () => void, signal: AbortSignal}} options
 * @returns {() => void} shows what is there now
 */
export function showRooms(chat, me, { opened, signal }) {
  const open = (name) => {
    chat.show(name);
    opened();
  };

  const entry = (room) =>
    el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          "data-testid": `room-${room.name}`,
          "data-unread": room.unread,
          "aria-current": room === chat.open && "true",
          onclick: () => open(room.name),
        },
        room.direct ? avatar(room.title) : el("span", { class: "hash", "aria-hidden": "true" }, "#"),
        el("span", { class: "name" }, room.title),
        room.unread > 0 &&
          el("span", { class: "count" }, String(room.unread), el("span", { class: "unseen" }, " unread")),
      ),
    );

  const fill = (list, rooms) => {
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.testid : null;
    const key = (room) => `${room.name} ${room.title} ${room.unread} ${room === chat.open}`;
    reconcile(list, rooms, key, entry);
    if (focused) list.querySelector(`[data-testid="${CSS.escape(focused)}"]`)?.focus();
  };

  const submit = (form, input, go) =>
    form.addEventListener(
      "submit",
      async (event) => {
        event.preventDefault();
        const name = input.value.trim();
        if (name === "") return input.focus();
        try {
          await go(name);
          input.value = "";
          opened();
        } catch (error) {
          showProblem(error);
        }
      },
      { signal },
    );

  submit(byId("join-form"), byId("room-input"), (name) => chat.join(name));
  submit(byId("direct-form"), byId("direct-to"), (name) => {
    if (name === me) throw new Error("That is your own name. Give somebody else's.");
    chat.direct(name);
  });

  signal.addEventListener("abort", () => {
    for (const list of ["rooms", "directs"]) reconcile(byId(list), [], String, () => el("li"));
  });

  return () => {
    const rooms = [...chat.rooms.values()].sort((one, other) => one.title.localeCompare(other.title));
    const [directs, groups] = [rooms.filter((room) => room.direct), rooms.filter((room) => !room.direct)];
    fill(byId("rooms"), groups);
    fill(byId("directs"), directs);
    byId("rooms-empty").hidden = groups.length > 0;
    const unread = rooms.reduce((sum, room) => sum + room.unread, 0);
    document.title = unread > 0 ? `(${unread}) Towpath` : "Towpath";
    byId("tab-unread").hidden = unread === 0;
    byId("tab-unread").textContent = String(unread);
  };
}
