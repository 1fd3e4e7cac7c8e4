import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";

import { signal } from "@preact/signals";

import { en } from "../src/i18n/en.ts";
import { zh } from "../src/i18n/zh.ts";
import type { Outbox } from "../src/model/outbox.ts";
import { SPREAD_MS, WAIT_MS } from "../src/state/catching-up.ts";
import { Chat } from "../src/state/chat.ts";
import { type Notice, Notices } from "../src/state/notices.ts";
import { Refusal, Service, eventually, handedOut } from "./service.ts";

type Answers = ConstructorParameters<typeof Service>[0];

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

const LOBBY = { room: "lobby", title: "The lobby", seq: 4, read_seq: 4, unread: 0 };
const message = (seq: number, more: object = {}) => ({
  room: "lobby",
  seq,
  user: "bob",
  text: `m${seq}`,
  sent_at: seq,
  ...more,
});

const page = (seqs: number[], has_more = false) => ({
  room: "lobby",
  messages: seqs.map((seq) => message(seq)),
  has_more,
  seq: seqs.at(-1) ?? 0,
});

/** Chat as ana, in the lobby, of which she has seen four messages. */
async function inLobby(answers: Answers = {}) {
  const service = new Service({
    "chat.rooms": () => ({ rooms: [LOBBY] }),
    "chat.resume": ({ positions }) => ({
      streams: Object.fromEntries(
        Object.entries(positions).map(([stream, seq]) => [stream, { seq, complete: true }]),
      ),
    }),
    "chat.history": () => page([1, 2, 3, 4]),
    "chat.members": () => ({ room: "lobby", members: [{ user: "ana", online: true }, { user: "bob", online: false }] }),
    "chat.read": ({ room, seq }) => ({ room, seq }),
    ...answers,
  });
  const notices = new Notices();
  /** Every notice that was ever shown. */
  const ever = new Map<number, Notice>();
  const watching = notices.shown.subscribe((shown) => shown.forEach((notice) => ever.set(notice.id, notice)));
  ends.push(() => {
    watching();
    service.client.close();
    for (const { id } of notices.shown.value) notices.dismiss(id);
  });
  const outbox = signal<Outbox>([]);
  const chat = new Chat(service.client, "ana", outbox, notices);
  chat.show("lobby");
  await eventually(() => chat.listed.value && chat.rooms.value.get("lobby")?.history !== "none");
  const lobby = () => chat.rooms.value.get("lobby")!;
  const seqs = () => lobby().entries.map(({ seq }) => seq);
  const noticeTexts = () => notices.shown.value.map(({ text }) => text(en));
  return { service, chat, outbox, lobby, seqs, noticeTexts, ever };
}

describe("saying something", () => {
  test("shows at once, and once when it has arrived, push first", async () => {
    const { service, chat, outbox, seqs } = await inLobby({ "chat.send": () => null });
    chat.say("lobby", "hello");
    assert.deepEqual(outbox.value.map(({ text }) => text), ["hello"]);
    const [request] = service.of("chat.send");
    service.tell("chat.message", message(5, { user: "ana", text: "hello", client_ref: request!.data["client_ref"] }));
    await handedOut();
    assert.deepEqual([outbox.value, seqs()], [[], [1, 2, 3, 4, 5]]);
    service.answer(request!, { room: "lobby", seq: 5, sent_at: 5 });
    await handedOut();
    assert.deepEqual([outbox.value, seqs()], [[], [1, 2, 3, 4, 5]]);
  });

  test("shows once when the answer comes first", async () => {
    const sent = { room: "lobby", seq: 5, sent_at: 5 };
    const { service, chat, outbox, seqs } = await inLobby({ "chat.send": () => sent });
    chat.say("lobby", "hello");
    await eventually(() => outbox.value.length === 0);
    const [request] = service.of("chat.send");
    service.tell("chat.message", message(5, { user: "ana", text: "hello", client_ref: request!.data["client_ref"] }));
    await handedOut();
    assert.deepEqual(seqs(), [1, 2, 3, 4, 5]);
  });

  test("to one user shows once, although nothing there refers to it", async () => {
    const first = { ...message(1, { user: "ana", text: "psst" }), room: "dm:ana:bob" };
    let isThere = false;
    const { service, chat, outbox } = await inLobby({
      "chat.history": ({ room }) =>
        room === "lobby"
          ? page([1, 2, 3, 4])
          : isThere
            ? { room, messages: [first], has_more: false, seq: 1 }
            : new Refusal("not_found"),
      "chat.direct": () => null,
    });
    const name = chat.direct("bob");
    chat.show(name);
    const direct = () => chat.rooms.value.get(name);
    await eventually(() => direct()?.history === "loaded");
    chat.say(name, "psst");
    const [request] = service.of("chat.direct");
    assert.deepEqual(request!.data, { to: "bob", text: "psst" });
    isThere = true;
    service.tell("chat.message", first);
    assert.equal(outbox.value.length + direct()!.entries.length, 1, "the draft stays until the message shows");
    service.answer(request!, { room: name, seq: 1, sent_at: 1 });
    await eventually(() => outbox.value.length === 0);
    const seqs = () => direct()!.entries.map(({ seq }) => seq);
    assert.deepEqual(seqs(), [1]);
    service.tell("chat.message", { ...message(2, { text: "yes?" }), room: name });
    await eventually(() => seqs().length === 2);
    assert.deepEqual(seqs(), [1, 2]);
  });

  test("that failed is tried again as the same message", async () => {
    const answers = [new Refusal("busy", true), { room: "lobby", seq: 5, sent_at: 5 }];
    const { service, chat, outbox } = await inLobby({ "chat.send": () => answers.shift()! });
    chat.say("lobby", "hello");
    await eventually(() => outbox.value[0]?.problem != null);
    assert.equal(outbox.value[0]!.problem!.uncertain, false);
    chat.again(outbox.value[0]!);
    await eventually(() => outbox.value.length === 0);
    const [first, second] = service.of("chat.send");
    assert.deepEqual([second!.msg_id, second!.data], [first!.msg_id, first!.data]);
  });

  test("without a confirm is marked so, and is kept for the next connection", async () => {
    const { service, chat, outbox } = await inLobby({ "chat.send": () => null });
    chat.say("lobby", "hello");
    await eventually(() => service.of("chat.send").length === 1);
    service.client.close();
    await eventually(() => outbox.value[0]?.problem != null);
    assert.equal(outbox.value[0]!.problem!.uncertain, true);
  });
});

describe("reading", () => {
  test("is reported once for a burst, and only from a visible window", async () => {
    const { service, chat, lobby } = await inLobby();
    service.tell("chat.message", message(5));
    assert.deepEqual([lobby().unread, service.of("chat.read").length], [1, 0]);
    chat.watch("lobby");
    for (const seq of [6, 7, 8]) service.tell("chat.message", message(seq));
    assert.equal(lobby().unread, 0);
    await eventually(() => service.of("chat.read").length > 0);
    assert.deepEqual(service.of("chat.read").map(({ data }) => data), [{ room: "lobby", seq: 8 }]);
  });

  test("continues where a connection was lost: messages replayed in view are read", async () => {
    const summary = { ...LOBBY };
    const { service, chat, lobby } = await inLobby({ "chat.rooms": () => ({ rooms: [summary] }) });
    chat.watch("lobby");
    Object.assign(summary, { seq: 6, unread: 2 });
    service.drop();
    await eventually(() => service.of("chat.rooms").length === 2 && lobby().head === 6, 10_000);
    for (const seq of [5, 6]) service.tell("chat.message", message(seq));
    assert.equal(lobby().unread, 0);
    await eventually(() => service.of("chat.read").at(-1)?.data["seq"] === 6);
  });

  test("in another window counts here", async () => {
    const { service, lobby } = await inLobby();
    service.tell("chat.message", message(5));
    service.push("chat.read", { room: "lobby", user: "ana", seq: 5 });
    assert.equal(lobby().unread, 0);
  });
});

describe("a room", () => {
  test("follows what is edited and deleted", async () => {
    const { service, lobby } = await inLobby();
    service.tell("chat.edited", { room: "lobby", seq: 3, user: "bob", text: "better", edited_at: 9 }, 5);
    service.tell("chat.deleted", { room: "lobby", seq: 4, user: "bob", deleted_at: 9 }, 6);
    await handedOut();
    const [, , third, fourth] = lobby().entries;
    assert.deepEqual([third, fourth].map((entry) => entry?.kind === "message" && entry.text), ["better", ""]);
    assert.equal(lobby().head, 6);
  });

  test("loads its messages again when too much was missed, and reports it", async () => {
    let isComplete = true;
    const { service, lobby, noticeTexts } = await inLobby({
      "chat.resume": ({ positions }) => ({
        streams: Object.fromEntries(
          Object.entries(positions).map(([stream, seq]) => [
            stream,
            { seq: isComplete ? seq : 90, complete: isComplete },
          ]),
        ),
      }),
      "chat.history": () => (isComplete ? page([1, 2, 3, 4]) : page([89, 90], true)),
    });
    isComplete = false;
    service.tell("chat.message", message(95)); // far ahead: a hole that is not kept any more
    await eventually(() => lobby().hasEarlier);
    assert.deepEqual(lobby().entries.map(({ seq }) => seq).slice(0, 2), [89, 90]);
    assert.equal(noticeTexts().length, 1);
  });

  test("that one is not in says so, and can be joined", async () => {
    let isIn = false;
    const { chat, lobby } = await inLobby({
      "chat.rooms": () => ({ rooms: isIn ? [LOBBY] : [] }),
      "chat.history": () => (isIn ? page([4]) : new Refusal("forbidden")),
      "chat.join": () => ((isIn = true), { room: "lobby", seq: 4, members: ["bob", "ana"] }),
    });
    assert.equal(lobby().history, "stranger");
    await chat.join("lobby");
    await eventually(() => lobby().history === "loaded" && lobby().title === "The lobby");
    assert.deepEqual(lobby().members, ["ana", "bob"]);
  });

  test("that was left or joined in another window meanwhile is gone or there with the next connection", async () => {
    const rooms = [LOBBY, { ...LOBBY, room: "lock", title: "lock" }];
    const { service, chat } = await inLobby({
      "chat.rooms": () => ({ rooms }),
      "chat.history": ({ room }) =>
        rooms.some((one) => one.room === room) ? { ...page([1, 2, 3, 4]), room } : new Refusal("forbidden"),
    });
    const weir = () => chat.rooms.value.get("weir")?.history;
    chat.show("weir");
    await eventually(() => weir() === "stranger");
    rooms[1] = { ...LOBBY, room: "weir", title: "weir" };
    service.drop();
    await eventually(() => !chat.rooms.value.has("lock") && weir() === "loaded", 10_000);
    assert.equal(chat.rooms.value.has("lobby"), true);
  });

  test("one is invited to is listed until one joins it", async () => {
    const { service, chat, noticeTexts, ever } = await inLobby({ "chat.join": () => ({ room: "crew", seq: 2, members: ["ana"] }) });
    const invitation = { room: "crew", title: "The crew", by: "bob" };
    service.push("chat.invited", invitation);
    service.push("chat.invited", invitation);
    assert.deepEqual([chat.invitations.value, noticeTexts().length], [[invitation], 1]);
    await chat.join("crew");
    // The invitation is dealt with, so its notice is gone.
    assert.deepEqual([chat.invitations.value, noticeTexts()], [[], []]);
    assert.ok(ever.size > 0);
  });
});

describe("rooms that are opened one after the other", () => {
  const names = Array.from({ length: 22 }, (_, number) => `room-${number}`);

  test("keep their messages, of those opened last, and are counted all the same", async () => {
    const rooms = names.map((room) => ({ ...LOBBY, room, title: room }));
    let last = 4;
    const { service, chat } = await inLobby({
      "chat.rooms": () => ({ rooms: [LOBBY, ...rooms] }),
      "chat.history": ({ room }) => ({ ...page([last - 1, last]), room }),
    });
    const room = (name: string) => chat.rooms.value.get(name)!;
    for (const name of names) {
      chat.show(name);
      await eventually(() => room(name).history === "loaded");
    }
    assert.deepEqual([room("lobby").entries, room("lobby").history], [[], "none"]);
    assert.equal(room(names[5]!).entries.length, 2);
    for (const name of ["lobby", names[5]!]) service.tell("chat.message", { ...message(5), room: name });
    await handedOut();
    assert.deepEqual([room("lobby").unread, room(names[5]!).unread], [1, 1]);
    assert.equal(room(names[5]!).entries.length, 3);
    const asked = service.of("chat.history").length;
    last = 5;
    chat.show(names[5]!);
    chat.show("lobby");
    await eventually(() => room("lobby").history === "loaded");
    assert.equal(service.of("chat.history").length, asked + 1);
  });
});

describe("a service that is not there yet", () => {
  test("is asked again until it is, and a person hears of it once and while it lasts", async () => {
    let calls = 0;
    const { lobby, noticeTexts, ever } = await inLobby({
      "chat.rooms": () => (++calls < 2 ? new Refusal("unknown_action") : { rooms: [LOBBY] }),
    });
    assert.deepEqual([lobby().title, calls, ever.size, noticeTexts()], ["The lobby", 2, 1, []]);
  });
});

describe("messages that cannot be loaded now", () => {
  test("are asked for again, while the room is open", async () => {
    const answers = [new Refusal("unavailable", true), page([4])];
    const { seqs, noticeTexts, ever } = await inLobby({ "chat.history": () => answers.shift()! });
    assert.deepEqual([seqs(), ever.size, noticeTexts()], [[4], 1, []]);
  });
});

describe("a crowd", () => {
  const names = ["ana", "bob", "cyd"];
  const members = names.map((user) => ({ user, online: false }));

  test("is counted, and its first members are listed", async () => {
    const { service, chat, lobby } = await inLobby({ "chat.members": () => ({ room: "lobby", members, count: 1234 }) });
    await chat.loadMembers("lobby");
    assert.deepEqual([lobby().members, lobby().crowd], [names, { members: 1234, online: null }]);
    service.push("chat.crowd", { room: "lobby", members: 1235, online: 56, seq: 4 });
    assert.deepEqual(lobby().crowd, { members: 1235, online: 56 });
    await chat.loadMembers("lobby");
    assert.deepEqual(lobby().crowd, { members: 1234, online: 56 });
    assert.deepEqual([en.members.summary(1234, 56), zh.members.summary(1234, 56)], [
      "1,234 members, 56 online",
      "1,234 位成员，56 位在线",
    ]);
  });

  test("whose stream is ahead of the client is resumed, if the client does not get there", async (t) => {
    const { service } = await inLobby();
    const resumes = () => service.of("chat.resume").length;
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const before = resumes();
    service.push("chat.crowd", { room: "lobby", members: 1234, online: 56, seq: 4 });
    service.push("chat.crowd", { room: "lobby", members: 1234, online: 56, seq: 5 });
    service.tell("chat.message", message(5));
    t.mock.timers.tick(WAIT_MS + SPREAD_MS);
    assert.equal(resumes(), before);
    service.push("chat.crowd", { room: "lobby", members: 1234, online: 56, seq: 6 });
    t.mock.timers.tick(WAIT_MS - 1);
    assert.equal(resumes(), before);
    t.mock.timers.tick(SPREAD_MS + 1);
    assert.equal(resumes(), before + 1);
  });

  test("that has shrunk is a room again, with all of its members", async () => {
    let count: number | undefined = 4;
    const { service, chat, lobby } = await inLobby({ "chat.members": () => ({ room: "lobby", members, count }) });
    await chat.loadMembers("lobby");
    count = undefined;
    service.push("chat.crowd", { room: "lobby", members: 3, online: 1, seq: 4 });
    await eventually(() => lobby().crowd === null);
    assert.deepEqual(lobby().members, names);
  });

  test("that one joins in another window takes no place among the messages", async () => {
    const { service, lobby, seqs } = await inLobby();
    service.push("chat.joined", { room: "lobby", user: "ana", seq: 5 });
    assert.deepEqual([seqs(), lobby().head], [[1, 2, 3, 4], 4]);
  });
});

describe("people", () => {
  const den = { room: "den", title: "The den", seq: 2, read_seq: 2, unread: 0, private: true, owner: "bob" };
  const inDen = (answers: Answers = {}) => inLobby({ "chat.rooms": () => ({ rooms: [LOBBY, den] }), ...answers });

  test("the owner of a private room is known, and changes", async () => {
    const { service, chat } = await inDen();
    const owner = () => chat.rooms.value.get("den")!.owner;
    assert.deepEqual([owner(), chat.rooms.value.get("lobby")!.owner], ["bob", null]);
    service.tell("chat.owner", { room: "den", seq: 3, user: "ana" });
    await eventually(() => owner() === "ana");
    assert.equal(chat.rooms.value.get("den")!.head, 3);
  });

  test("a user who is removed, or whose room is deleted, sees that and hears no more of the room", async () => {
    const { service, chat, noticeTexts } = await inDen();
    service.tell("chat.left", { room: "den", seq: 3, user: "ana", by: "bob" });
    await eventually(() => !chat.rooms.value.has("den"));
    assert.equal("chat:den" in service.client.positions, false);
    service.push("chat.dropped", { room: "lobby", by: "bob" });
    await eventually(() => !chat.rooms.value.has("lobby"));
    assert.deepEqual(noticeTexts(), [en.rooms.removed("The den"), en.rooms.dropped("bob", "The lobby")]);
    assert.deepEqual([chat.open.value, "chat:lobby" in service.client.positions], [null, false]);
  });

  test("one's own deletion of a room is not announced", async () => {
    const { service, chat, noticeTexts } = await inDen({ "chat.drop": ({ room }) => ({ room }) });
    await chat.dropRoom("den");
    service.push("chat.dropped", { room: "den", by: "ana" });
    assert.deepEqual([noticeTexts(), chat.rooms.value.has("den")], [[], false]);
  });

  test("blocked users are listed, do not type, and are not read out", async () => {
    let users = [{ user: "eve", since: 1 }];
    const { service, chat } = await inLobby({
      "chat.blocked": () => ({ users }),
      "chat.block": ({ user }) => ({ user }),
      "chat.unblock": ({ user }) => ({ user }),
    });
    await eventually(() => chat.blocks.has("eve"));
    await chat.block("bob");
    service.push("chat.typing", { room: "lobby", user: "bob" });
    service.push("chat.typing", { room: "lobby", user: "cid" });
    service.tell("chat.message", message(5));
    await handedOut();
    assert.equal(chat.rooms.value.get("lobby")!.entries.at(-1)?.seq, 5);
    assert.deepEqual([...(chat.typing.value.get("lobby")?.keys() ?? [])], ["cid"]);
    assert.equal(chat.heard.value, null);
    await chat.unblock("bob");
    assert.deepEqual([chat.blocks.has("bob"), chat.blocks.has("eve")], [false, true]);
  });

  test("a declined invitation, and those of a blocked user, are off the list", async () => {
    const invitations = ["den", "attic", "hall"].map((room) => ({ room, title: room, by: room === "hall" ? "cid" : "bob" }));
    const { chat } = await inLobby({
      "chat.rooms": () => ({ rooms: [LOBBY], invitations }),
      "chat.decline": ({ room }) => ({ room }),
      "chat.block": ({ user }) => ({ user }),
    });
    await eventually(() => chat.invitations.value.length === 3);
    await chat.decline("den");
    assert.deepEqual(chat.invitations.value.map(({ room }) => room), ["attic", "hall"]);
    await chat.block("bob");
    assert.deepEqual(chat.invitations.value.map(({ room }) => room), ["hall"]);
  });
});

describe("a service that lacks an action", () => {
  test("costs nothing but that: no presence and no read positions, and no complaint", async () => {
    const { service, chat, lobby, noticeTexts } = await inLobby({
      "chat.members": () => new Refusal("unknown_action"),
      "chat.read": () => new Refusal("unknown_action"),
    });
    chat.watch("lobby");
    service.tell("chat.message", message(5));
    await eventually(() => service.of("chat.read").length > 0 && service.of("chat.members").length > 0);
    await chat.loadMembers("lobby");
    assert.deepEqual([noticeTexts(), lobby().members, lobby().unread], [[], null, 0]);
  });

  test("is shown to a user who asked for it", async () => {
    const { chat } = await inLobby();
    await assert.rejects(chat.edit("lobby", 1, "better"), { code: "unknown_action" });
    await assert.rejects(chat.create("crew", { title: "", isPrivate: true }), { code: "unknown_action" });
  });
});
