import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";

import type { Notification } from "@towpath/client";

import { NONE, extended, listed, notified, read, target } from "../src/model/notifications.ts";
import { Notices } from "../src/state/notices.ts";
import { Notifications } from "../src/state/notifications.ts";
import { Service, eventually, handedOut } from "./service.ts";

const one = (seq: number, more: Partial<Notification> = {}): Notification => ({
  id: `n-${seq}`,
  seq,
  kind: "order.paid",
  title: `No. ${seq}`,
  text: "It is paid.",
  created_at: seq,
  ...more,
});
const page = (seqs: number[], more = {}) => ({
  notifications: seqs.map((seq) => one(seq)),
  seq: seqs[0] ?? 0,
  read_seq: 0,
  unread: seqs.length,
  has_more: false,
  ...more,
});
const seqs = ({ list }: { list: readonly Notification[] }) => list.map(({ seq }) => seq);

describe("notifications", () => {
  test("are listed newest first, each once, later ones above and earlier ones below", () => {
    let all = listed(NONE, page([3, 2], { has_more: true }));
    all = notified(notified(all, one(3)), one(4));
    assert.deepEqual([seqs(all), all.unread, all.hasOlder], [[4, 3, 2], 3, true]);
    all = extended(all, page([1]));
    assert.deepEqual([seqs(all), all.unread, all.hasOlder], [[4, 3, 2, 1], 3, false]);
  });

  test("are listed once by a state that is a little ahead of its position", () => {
    const all = notified(listed(NONE, page([3, 2], { seq: 2 })), one(3));
    assert.deepEqual([seqs(all), all.unread], [[3, 2], 2]);
  });

  test("are unread until they are read, here or elsewhere", () => {
    let all = read(listed(NONE, page([3, 2, 1])), { read_seq: 2, unread: 1 });
    assert.equal(all.unread, 1);
    all = read(all, { read_seq: 1, unread: 2 }); // late
    assert.equal(all.unread, 1);
    assert.equal(notified(all, one(4)).unread, 2);
    all = listed(all, page([4, 3, 2, 1])); // it was asked for before the reading
    assert.deepEqual([all.readSeq, all.unread], [2, 2]);
  });

  test("lead to an order or a room, and nowhere else", () => {
    assert.deepEqual(target(one(1, { link: "order/O-1" })), { order: "O-1" });
    assert.deepEqual(target(one(1, { link: "room/dm%3Aana%3Aben" })), { room: "dm:ana:ben" });
    for (const link of [undefined, "", "order", "order/", "https://a.example/", "javascript:x/1", "room/%ff"]) {
      assert.equal(target(one(1, link === undefined ? {} : { link })), null);
    }
  });
});

describe("a service of notifications", () => {
  const ends: (() => void)[] = [];
  afterEach(() => ends.splice(0).forEach((end) => end()));

  function connected(answers: ConstructorParameters<typeof Service>[0]) {
    const service = new Service(answers);
    const notices = new Notices();
    ends.push(() => service.client.close());
    return { service, notices, notifications: new Notifications(service.client, "ana", notices) };
  }

  test("is asked for the list, and followed from there", async () => {
    const { service, notifications } = connected({
      "notification.list": () => page([2, 1], { read_seq: 1, unread: 1 }),
      "notification.resume": () => ({ streams: { "notification:ana": { seq: 2, complete: true } } }),
      "notification.read": ({ up_to }) => ({ read_seq: up_to, unread: 0 }),
    });
    await eventually(() => notifications.isThere.value && service.of("notification.resume").length === 1);
    assert.deepEqual(service.of("notification.resume")[0]!.data, { positions: { "notification:ana": 2 } });
    service.push("notification.new", one(3), { stream: "notification:ana", seq: 3 });
    await handedOut();
    assert.deepEqual([seqs(notifications.all.value), notifications.all.value.unread], [[3, 2, 1], 2]);
    await notifications.markRead();
    assert.deepEqual([service.of("notification.read")[0]!.data, notifications.all.value.unread], [{ up_to: 3 }, 0]);
  });

  test("that is not there is not shown, and no one hears of it", async () => {
    const { service, notices, notifications } = connected({});
    await eventually(() => service.of("notification.list").length === 1);
    await new Promise(setImmediate);
    assert.deepEqual([notifications.isThere.value, notices.shown.value], [false, []]);
  });
});
