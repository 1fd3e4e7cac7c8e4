/**
 * Chat on a client: keeps the rooms, asks and tells the service, and says what changed.
 *
 * `changed()` is called after every change, `opened()` when another room is open, or none.
 * `problem(error)` is called for what a person should know of and no room shows.
 */
import { keyOf } from "/client/index.js";
import { Room } from "./model/room.js";
import { directRoom } from "./model/names.js";

const PAGE = 50;
const SEND_TIMEOUT_MS = 60_000;
const TYPING_AGAIN_MS = 3_000;
const TYPING_LASTS_MS = 5_000;

export class Chat {
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** @type {Room | null} */
  open = null;
  #client;
  #me;
  #changed;
  #opened;
  #problem;
  #toldTyping = 0;
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #typingEnds = new Map();

  /**
   * @param {import("@towpath/client").Client} client
   * @param {string} me
   * @param {{changed: () => void, opened: () => void, problem: (error: unknown) => void}} told
   */
  constructor(client, me, { changed, opened, problem }) {
    this.#client = client;
    this.#me = me;
    this.#changed = changed;
    this.#opened = opened;
    this.#problem = problem;
    client.on("chat.message", (message) => this.#message(message));
    client.on("chat.joined", (push) => this.#joined(push));
    client.on("chat.left", (push) => this.#left(push));
    client.on("chat.typing", ({ room, user }) => this.#typing(room, user));
    client.on("incomplete", ({ stream }) => this.#incomplete(stream));
    client.onState((state) => state === "open" && this.#refresh());
  }

  /**
   * Joins a room, which makes it when there is none, and opens it.
   *
   * @param {string} name
   */
  async join(name) {
    const { room: joined, seq, members } = await this.#request("chat.join", name, { room: name });
    const room = this.#room(joined);
    room.members = new Set(members);
    this.#client.track(room.stream, seq);
    this.show(joined);
  }

  /** @param {string} name */
  async leave(name) {
    await this.#request("chat.leave", name, { room: name });
    this.#drop(name);
  }

  /**
   * Opens the two-person room with `other`; the service makes it with the first message.
   *
   * @param {string} other
   */
  direct(other) {
    this.show(directRoom(this.#me, other));
  }

  /**
   * Opens a room, or none.
   *
   * @param {string | null} name
   */
  show(name) {
    this.open = name === null ? null : this.#room(name);
    if (this.open) {
      this.open.unread = 0;
      if (!this.open.loaded) this.#load(this.open);
    }
    this.#opened();
  }

  /**
   * Says something in a room. It shows as a draft until it has arrived.
   *
   * @param {Room} room
   * @param {string} text
   */
  say(room, text) {
    const ref = newRef();
    room.draft(ref, text);
    this.#send(room, ref, text);
  }

  /**
   * Sends a draft that failed once more, as the same message: if the first did arrive it does not come twice.
   *
   * @param {Room} room
   * @param {import("./model/room.js").Draft} draft
   */
  again(room, { ref, text }) {
    room.draft(ref, text);
    this.#send(room, ref, text);
  }

  /** @param {Room} room */
  async loadEarlier(room) {
    try {
      room.addPage(await this.#history(room, { before_seq: room.firstSeq }));
      this.#changed();
    } catch (error) {
      this.#problem(error);
    }
  }

  /**
   * Tells the others that one types; not at every key, and not while there is no connection.
   *
   * @param {Room} room
   */
  tellTyping(room) {
    const now = Date.now();
    if (now - this.#toldTyping < TYPING_AGAIN_MS || this.#client.state !== "open") return;
    this.#toldTyping = now;
    this.#request("chat.typing", room.name, { room: room.name }).catch(() => {}); // not worth a word if it is lost
  }

  async #send(room, ref, text) {
    this.#toldTyping = 0;
    this.#changed();
    const data = room.direct ? { to: room.title, text } : { room: room.name, text, client_ref: ref };
    const options = { timeout: SEND_TIMEOUT_MS, msgId: ref };
    try {
      const { seq, sent_at } = await this.#request(room.direct ? "chat.direct" : "chat.send", room.name, data, options);
      room.discard(ref);
      room.add({ seq, sent_at, user: this.#me, text });
    } catch (error) {
      room.failed(ref, error.message);
    }
    this.#changed();
  }

  /** A connection is there: see which rooms there are, and hear of those this connection does not know yet. */
  async #refresh() {
    try {
      const { rooms } = await this.#request("chat.rooms", undefined, {});
      let unheard = false;
      for (const { room: name, title, seq } of rooms) {
        const room = this.#room(name, title);
        unheard ||= !(room.stream in this.#client.positions);
        this.#client.track(room.stream, seq);
      }
      if (unheard) this.#client.resume("chat");
      if (this.open && !this.open.loaded) this.#load(this.open);
      this.#changed();
    } catch (error) {
      this.#problem(error);
    }
  }

  async #load(room) {
    try {
      room.addPage(await this.#history(room, {}));
    } catch (error) {
      // Nobody has written to that person yet.
      if (room.direct && ["not_found", "forbidden"].includes(error.code)) room.loaded = true;
      else this.#problem(error);
    }
    this.#changed();
  }

  #history(room, range) {
    return this.#request("chat.history", room.name, { room: room.name, limit: PAGE, ...range });
  }

  #message(message) {
    const room = this.#room(message.room);
    const isNew = room.add(message);
    if (isNew && message.user !== this.#me && room !== this.open) room.unread += 1;
    this.#changed();
  }

  #joined(push) {
    const room = this.#room(push.room);
    room.addNote("joined", push);
    this.#changed();
  }

  #left(push) {
    if (push.user === this.#me) return this.#drop(push.room); // in another window
    const room = this.rooms.get(push.room);
    room?.addNote("left", push);
    this.#changed();
  }

  #typing(name, user) {
    const room = this.rooms.get(name);
    if (!room || user === this.#me) return;
    room.typing.add(user);
    this.#changed();
    clearTimeout(this.#typingEnds.get(`${name} ${user}`));
    const ends = () => room.typing.delete(user) && this.#changed();
    this.#typingEnds.set(`${name} ${user}`, setTimeout(ends, TYPING_LASTS_MS));
  }

  /** Some of a room was missed and cannot be replayed: what is shown may have a gap, so load it anew. */
  #incomplete(stream) {
    const room = [...this.rooms.values()].find((room) => room.stream === stream);
    if (!room?.loaded) return;
    room.reset();
    if (room === this.open) this.#load(room);
  }

  #drop(name) {
    this.#client.forget(`chat:${name}`);
    const room = this.rooms.get(name);
    if (!room) return;
    this.rooms.delete(name);
    if (this.open === room) this.open = null;
    this.#opened();
  }

  #room(name, title) {
    let room = this.rooms.get(name);
    if (room === undefined) {
      room = new Room(name, this.#me, title);
      this.rooms.set(name, room);
      this.#changed();
    }
    return room;
  }

  #request(action, room, data, options) {
    return this.#client.request(action, data, { key: room === undefined ? undefined : keyOf(room), ...options });
  }
}

/** A reference nobody else makes; it is the message's `msg_id` too. */
function newRef() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
