/**
 * Chat on a client: sends requests, listens, and keeps the rooms as signals.
 *
 * A service that lacks an action costs that action only: no presence, no read positions, but the rest goes on.
 */
import { type ReadonlySignal, type Signal, batch, signal } from "@preact/signals";
import {
  type Actions,
  type Client,
  type CrowdCounted,
  type DurablePush,
  type History,
  type Invitation,
  type Message as MessageData,
  type MemberChange,
  type OwnerChange,
  type RequestOptions,
  type RoomDropped,
  type Sent,
  TowpathError,
  keyOf,
} from "@towpath/client";

import { directRoom, inText, isDirect, streamOf } from "../model/names.ts";
import type { Draft, Outbox } from "../model/outbox.ts";
import { Problem } from "../model/problem.ts";
import {
  type Message,
  type Room,
  advanced,
  answered,
  counted,
  deleted,
  edited,
  listed,
  moved,
  owned,
  readUpTo,
  said,
  seen,
  summarised,
  turnedAway,
  withdrawn,
} from "../model/room.ts";
import type { Typing } from "../model/typing.ts";
import { Again } from "./again.ts";
import { Blocks } from "./blocks.ts";
import { CatchingUp } from "./catching-up.ts";
import { Conversations } from "./conversations.ts";
import { Finder } from "./finder.ts";
import type { Notices } from "./notices.ts";
import { Presence } from "./presence.ts";
import { Reading } from "./reading.ts";
import { RoomStore } from "./room-store.ts";
import { Sending } from "./sending.ts";
import { TypingNow } from "./typing.ts";

const PAGE = 50;
const SEND_TIMEOUT_MS = 60_000;
const TYPING_AGAIN_MS = 3_000;
/** People of so many two-person rooms are asked after when a connection opens; of the others when they are opened. */
const PARTNERS_ASKED = 20;
/** The maximal number of rooms in `chat.rooms`. */
const MOST_LISTED = 1_000;

export class Chat {
  readonly rooms: ReadonlySignal<ReadonlyMap<string, Room>>;
  readonly invitations = signal<readonly Invitation[]>([]);
  /** Typing users, by room. */
  readonly typing: ReadonlySignal<ReadonlyMap<string, Typing>>;
  /** Users who are online, as far as the service reported. */
  readonly online: ReadonlySignal<ReadonlyMap<string, boolean>>;
  /** The room that is open. */
  readonly open = signal<string | null>(null);
  /** Whether the service has said which rooms there are. */
  readonly listed = signal(false);
  /** The last message of another person in the open room, to be read out. */
  readonly heard = signal<Message | null>(null);
  /** Messages on their way. */
  readonly outbox: ReadonlySignal<Outbox>;
  readonly me: string;
  readonly blocks: Blocks;
  #client: Client;
  #notices: Notices;
  /** The room whose end the person is looking at. */
  #watched: string | null = null;
  #listAgain = new Again(() => this.#client.state === "open" && void this.#refresh());
  #store: RoomStore;
  #typing = new TypingNow();
  #reading: Reading;
  #sending: Sending;
  #presence: Presence;
  #catchingUp: CatchingUp;
  #conversations: Conversations;
  #toldTyping = 0;

  /** @param outbox see {@link Sending} */
  constructor(client: Client, me: string, outbox: Signal<Outbox>, notices: Notices) {
    this.me = me;
    this.#client = client;
    this.#notices = notices;
    this.#store = new RoomStore(me);
    this.#reading = new Reading(
      (room) => this.#store.get(room)?.readSeq ?? 0,
      (room, seq) => this.#ask("chat.read", { room, seq }),
    );
    this.#sending = new Sending(
      outbox,
      (draft) => this.#send(draft),
      ({ ref, room, text }, { seq, sent_at }) => {
        const data = { room, seq, sent_at, user: me, text, client_ref: ref };
        this.#store.update(room, (known) => answered(known, data));
      },
    );
    this.#presence = new Presence(this.#store, (room) => this.#ask("chat.members", { room }));
    this.#catchingUp = new CatchingUp(
      (stream) => this.#client.positions[stream],
      () => this.#client.resume("chat"),
    );
    this.#conversations = new Conversations(
      client,
      this.#store,
      (room, range, signal) => this.#ask("chat.history", { room, limit: PAGE, ...range }, { signal }),
      {
        loaded: (room, page, again) => this.#loaded(room, page, again),
        followed: (room, push) => this.#followed(room, push),
        failed: (error) => notices.problem(error, LOADING),
      },
    );
    this.blocks = new Blocks({
      list: () => this.#ask("chat.blocked", {}),
      block: (user) => this.#ask("chat.block", { user }),
      unblock: (user) => this.#ask("chat.unblock", { user }),
    });
    this.outbox = this.#sending.outbox;
    this.online = this.#presence.online;
    this.rooms = this.#store.all;
    this.typing = this.#typing.rooms;
    this.#listen();
  }

  /** Opens a room, or none. */
  show(name: string | null): void {
    const before = this.open.peek();
    if (before === name) return;
    batch(() => {
      if (before !== null) this.#store.update(before, turnedAway);
      this.#watched = null;
      this.heard.value = null;
      this.open.value = name;
      if (name === null) return;
      if (isDirect(name)) this.#store.know(name);
      this.#look(name);
    });
  }

  /** Finds public rooms. */
  finder(): Finder {
    return new Finder((data) => this.#ask("chat.find", data));
  }

  /** Joins a room, which makes it when there is none. Gives its name. */
  async join(name: string): Promise<string> {
    const answer = await this.#ask("chat.join", { room: name }, { stream: streamOf(name) });
    batch(() => {
      this.#store.know(answer.room);
      this.#store.update(answer.room, (room) => ({
        ...listed(room, answer.members, answer.count),
        head: Math.max(room.head, answer.seq),
        readSeq: Math.max(room.readSeq, answer.seq),
        history: room.history === "stranger" ? "none" : room.history,
      }));
      this.#uninvited(answer.room);
    });
    void this.#list(); // its title, and whether it is private
    if (this.open.peek() === answer.room) this.#look(answer.room);
    return answer.room;
  }

  /** Makes a room. Gives its name. */
  async create(name: string, { title, isPrivate }: { title: string; isPrivate: boolean }): Promise<string> {
    const data = { room: name, ...(title && { title }), ...(isPrivate && { private: true }) };
    const { room } = await this.#ask("chat.create", data);
    batch(() => {
      this.#store.know(room);
      const owner = isPrivate ? this.me : null;
      this.#store.update(room, (made) => ({ ...made, title: title || name, isPrivate, owner, history: "loaded" }));
    });
    return room;
  }

  async leave(name: string): Promise<void> {
    await this.#ask("chat.leave", { room: name });
    this.#drop(name);
  }

  async invite(name: string, user: string): Promise<void> {
    await this.#ask("chat.invite", { room: name, user });
  }

  /** Ends an invitation. */
  async decline(name: string): Promise<void> {
    await this.#ask("chat.decline", { room: name });
    this.#uninvited(name);
  }

  /** As its owner: ends the membership of another user. */
  async removeMember(name: string, user: string): Promise<void> {
    await this.#ask("chat.remove", { room: name, user });
    void this.loadMembers(name); // in a crowd no push says it
  }

  /** As its owner: makes another member the owner. */
  async transfer(name: string, user: string): Promise<void> {
    const { owner } = await this.#ask("chat.transfer", { room: name, user });
    this.#store.update(name, (room) => ({ ...room, owner }));
  }

  /** As its owner: deletes a room, for all members. */
  async dropRoom(name: string): Promise<void> {
    await this.#ask("chat.drop", { room: name });
    this.#drop(name);
  }

  async block(user: string): Promise<void> {
    await this.blocks.block(user);
    this.invitations.value = this.invitations.peek().filter(({ by }) => by !== user);
  }

  async unblock(user: string): Promise<void> {
    await this.blocks.unblock(user);
    void this.#list(); // open invitations of that user, and rooms of the two
  }

  /** Takes an invitation off the list. It stays good, and is listed again with the next connection. */
  later(room: string): void {
    this.#uninvited(room);
  }

  /**
   * The name of the two-person room with `other`; the service makes it with the first message.
   *
   * @throws {Problem} `own_name`
   */
  direct(other: string): string {
    if (other === this.me) throw new Problem({ code: "own_name" });
    return directRoom(this.me, other);
  }

  /** Says something in a room. It shows as a draft until it has arrived. */
  say(name: string, text: string): void {
    this.#store.update(name, turnedAway);
    this.#toldTyping = 0;
    this.#sending.say(name, text);
  }

  /** Sends a draft that failed once more. */
  again(draft: Draft): void {
    this.#sending.again(draft);
  }

  discard(draft: Draft): void {
    this.#sending.discard(draft);
  }

  async edit(name: string, seq: number, text: string): Promise<void> {
    await this.#ask("chat.edit", { room: name, seq, text });
    this.#store.update(name, (room) => edited(room, { seq, text, edited_at: Date.now() }));
  }

  async remove(name: string, seq: number): Promise<void> {
    await this.#ask("chat.delete", { room: name, seq });
    this.#store.update(name, (room) => deleted(room, { seq }));
  }

  /** Loads what is earlier than what is there. Says whether something came. */
  async loadEarlier(name: string): Promise<boolean> {
    try {
      return await this.#conversations.earlier(name);
    } catch (error) {
      if (!isClosed(error)) this.#notices.problem(error);
      return false;
    }
  }

  /** Asks who is in a room. */
  async loadMembers(name: string): Promise<void> {
    await this.#presence.load(name);
  }

  /** The person looks at the end of the open room, or does not any more. */
  watch(name: string | null): void {
    this.#watched = name;
    if (name === null) return;
    this.#store.update(name, seen);
    this.#reading.soon(name);
  }

  /** Sends `chat.typing`; not at every key, and not without a connection. */
  tellTyping(name: string): void {
    const now = Date.now();
    if (now - this.#toldTyping < TYPING_AGAIN_MS || this.#client.state !== "open") return;
    if (!this.#store.get(name)?.head) return; // there is no other member
    this.#toldTyping = now;
    this.#ask("chat.typing", { room: name }).catch(() => {}); // not worth a word if it is lost
  }

  #listen(): void {
    const client = this.#client;
    client.on("chat.message", (data) => this.#message(data));
    client.on("chat.edited", (data, { seq = 0 }) => this.#store.update(data.room, (room) => advanced(room, seq)));
    client.on("chat.deleted", (data, { seq = 0 }) => this.#store.update(data.room, (room) => withdrawn(room, data, seq)));
    client.on("chat.joined", (data, { stream }) => this.#joined(data, stream !== undefined));
    client.on("chat.left", (data) => this.#left(data));
    client.on("chat.owner", (data: OwnerChange) => this.#store.update(data.room, (room) => owned(room, data)));
    client.on("chat.dropped", (data: RoomDropped) => this.#dropped(data));
    client.on("chat.crowd", (data) => this.#crowd(data));
    client.on("chat.read", ({ room, user, seq }) => this.#store.update(room, (known) => readUpTo(known, user, seq)));
    client.on("chat.presence", (data) => this.#presence.take(data));
    client.on("chat.invited", (invitation) => this.#invited(invitation));
    client.on("chat.typing", ({ room, user }) => {
      // In a room of several the service pushes it to all members.
      if (user !== this.me && !this.blocks.has(user)) this.#typing.started(room, user);
    });
    client.on("incomplete", ({ stream }) => {
      if (stream.startsWith(streamOf(""))) void this.#list(); // how much of it is unread
    });
    client.onState((state) => {
      this.#catchingUp.stop(); // with a new connection all streams are resumed
      if (state === "open") void this.#refresh();
      if (state !== "closed") return;
      this.#listAgain.done();
    });
  }

  /** A connection is there: see which rooms there are and who is there. */
  async #refresh(): Promise<void> {
    await Promise.all([this.#list(), this.blocks.load()]);
    const [rooms, open] = [this.rooms.peek(), this.open.peek()];
    if (open !== null) this.#look(open);
    const directs = [...rooms.values()].filter((room) => room.partner !== null && room.name !== open && room.head > 0);
    for (const { name } of directs.slice(0, PARTNERS_ASKED)) void this.loadMembers(name);
  }

  /** Takes the list of rooms, and makes sure that this connection hears of those it does not know yet. */
  async #list(): Promise<void> {
    const before = [...this.rooms.peek().values()].filter(isMember);
    try {
      const { rooms, invitations } = await this.#ask("chat.rooms", {});
      const names = new Set(rooms.map(({ room }) => room));
      const left = rooms.length < MOST_LISTED ? before.filter(({ name }) => !names.has(name)) : [];
      const positions = this.#client.positions;
      const isUnheard = rooms.some(({ room }) => !(streamOf(room) in positions));
      // Also those that a conversation has opened: they are followed when that is closed.
      for (const { room, seq } of rooms) this.#client.track(streamOf(room), seq);
      if (isUnheard) this.#client.resume("chat");
      batch(() => {
        for (const { name } of left) this.#drop(name); // in another window, while this one was not connected
        for (const data of rooms) {
          this.#store.know(data.room);
          this.#store.update(data.room, (room) => summarised(room, data));
        }
        if (this.#watched !== null) this.watch(this.#watched); // missed messages are replayed in view
        this.invitations.value = invitations ?? [];
        this.listed.value = true;
      });
      this.#listAgain.done();
      this.#notices.settle(LISTING);
    } catch (error) {
      if (this.#listAgain.failed(error)) this.#notices.problem(error, LISTING);
    }
  }

  /** Sees to the data of an open room. */
  #look(name: string): void {
    this.#conversations.open(name);
    const room = this.#store.get(name);
    if (this.#client.state !== "open") return; // when it is, members are asked for
    if (room !== undefined && room.history !== "stranger" && (room.partner === null || room.head > 0)) {
      void this.loadMembers(name);
    }
  }

  #send({ ref, room, text }: Draft): Promise<Sent> {
    const options = { timeout: SEND_TIMEOUT_MS, msgId: ref };
    const partner = this.#store.get(room)?.partner ?? null;
    if (partner === null) return this.#ask("chat.send", { room, text, client_ref: ref }, options);
    return this.#ask("chat.direct", { to: partner, text }, { ...options, key: keyOf(room) });
  }

  /** Counts a message; in a room that was opened it is an entry besides, see {@link #followed}. */
  #message(data: MessageData): void {
    this.#store.know(data.room);
    batch(() => {
      this.#typing.stopped(data.room, data.user);
      const watching = this.#watched === data.room;
      this.#store.update(data.room, (room) => said(room, data, { watching }));
      if (this.open.peek() === data.room) this.#conversations.open(data.room); // the first message of two people
      if (data.user === this.me && !this.#conversations.has(data.room)) this.#sending.heard(data.room, data);
    });
    if (this.#watched === data.room) this.#reading.soon(data.room);
  }

  #loaded(name: string, { messages }: History, again: boolean): void {
    for (const message of messages) {
      // Without a reference it may be an older one that says the same.
      if (message.user === this.me && message.client_ref) this.#sending.heard(name, message);
    }
    const room = this.#store.get(name);
    if (again && room !== undefined && name === this.open.peek()) {
      this.#notices.news((words) => words.conversation.reloaded(inText(room.title)));
    }
    this.#notices.settle(LOADING);
  }

  #followed(name: string, { action, data }: DurablePush): void {
    if (action !== "chat.message") return;
    const message = data as MessageData;
    if (message.user === this.me) return this.#sending.heard(name, message);
    const isNews = name === this.open.peek() && !message.deleted && !this.blocks.has(message.user);
    if (isNews) this.heard.value = this.#messageOf(message);
  }

  #messageOf({ room, seq }: MessageData): Message | null {
    const entry = this.#store.get(room)?.entries.findLast((other) => other.seq === seq);
    return entry?.kind === "message" ? entry : null;
  }

  /** @param inStream Whether the others heard it, too. In a crowd it has no place among the messages. */
  #joined(data: MemberChange, inStream: boolean): void {
    const isNew = this.#store.get(data.room) === undefined;
    batch(() => {
      this.#store.know(data.room);
      if (inStream) this.#store.update(data.room, (room) => moved(room, data, true));
      if (data.user === this.me) this.#uninvited(data.room);
    });
    if (data.user !== this.me) return this.#presence.soon(data.room, () => this.open.peek() === data.room);
    if (isNew) void this.#list(); // joined in another window: its title
    if (this.open.peek() === data.room) this.#look(data.room);
  }

  #left(data: MemberChange): void {
    const title = this.#store.get(data.room)?.title;
    if (data.user === this.me) {
      if (data.by && title !== undefined) {
        this.#notices.news((words) => words.rooms.removed(inText(title)), goneFrom(data.room));
      }
      return this.#drop(data.room); // removed, or left in another window
    }
    this.#typing.stopped(data.room, data.user);
    this.#store.update(data.room, (room) => moved(room, data, false));
  }

  #dropped({ room, by }: RoomDropped): void {
    const title = this.#store.get(room)?.title;
    if (title !== undefined && by !== this.me) {
      this.#notices.news((words) => words.rooms.dropped(inText(by), inText(title)), goneFrom(room));
    }
    this.#drop(room);
  }

  #crowd(data: CrowdCounted): void {
    const known = this.#store.get(data.room);
    if (known === undefined) return;
    this.#catchingUp.expect(streamOf(data.room), data.seq);
    this.#store.update(data.room, (room) => counted(room, data));
    // No more members than names: it may be no crowd any more, and the names are not those of all members.
    if (data.members > (known.members?.length ?? 0)) return;
    this.#presence.soon(data.room, () => this.open.peek() === data.room);
  }

  #invited(invitation: Invitation): void {
    this.#uninvited(invitation.room);
    this.invitations.value = [...this.invitations.peek(), invitation];
    const [by, title] = [inText(invitation.by), inText(invitation.title || invitation.room)];
    this.#notices.news((words) => words.rooms.invited(by, title), invitationTo(invitation.room));
  }

  #uninvited(room: string): void {
    this.#notices.settle(invitationTo(room));
    this.#notices.settle(goneFrom(room));
    this.invitations.value = this.invitations.peek().filter((invitation) => invitation.room !== room);
  }

  #drop(name: string): void {
    this.#conversations.close(name);
    this.#client.forget(streamOf(name));
    this.#reading.forget(name);
    batch(() => {
      this.#store.drop(name);
      if (this.open.peek() === name) this.open.value = null;
    });
  }

  /** Requests that name a room are handled in their order. */
  #ask<Name extends keyof Actions>(
    action: Name,
    data: Actions[Name]["data"],
    options: RequestOptions = {},
  ): Promise<Actions[Name]["answer"]> {
    const key = "room" in data ? keyOf(data.room as string) : undefined;
    const answer: Promise<any> = this.#client.request(action as string, data, { key, ...options });
    return answer;
  }
}

/** The subjects of notices. */
const LISTING = "the list of rooms";
const LOADING = "the messages of a room";
const invitationTo = (room: string) => `an invitation to ${room}`;
const goneFrom = (room: string) => `no member of ${room} any more`;

/** Whether the service has said that one is in it. */
function isMember(room: Room): boolean {
  return room.head > 0 && room.history !== "stranger";
}

function isClosed(error: unknown): boolean {
  return error instanceof TowpathError && error.code === "closed";
}
