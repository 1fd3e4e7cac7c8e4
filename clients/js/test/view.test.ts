import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { TowpathError } from "../src/index.js";
import type { Client, View, ViewOptions } from "../src/index.js";
import { errorsOf, network, opened, settle, wait } from "./client-under-test.js";

const STREAM = "chat:lobby";

interface State {
  seq: number;
  entries: number[];
}

const upTo = (seq: number): State => ({ seq, entries: Array.from({ length: seq }, (_, at) => at + 1) });

/** A view whose loads the test answers, by position; and how many there were. */
function viewing(client: Client, options?: ViewOptions<State>) {
  const waiting: ((seq: number) => void)[] = [];
  const signals: AbortSignal[] = [];
  const view = client.openView<State>(
    STREAM,
    (signal) => {
      signals.push(signal);
      return new Promise((resolve) => waiting.push((seq) => resolve(upTo(seq))));
    },
    options,
  );
  const answers = async (seq: number) => {
    waiting.shift()?.(seq);
    await settle();
  };
  return { view, answers, signals };
}

/** The next updates: the entries of a state, the number of a change. */
async function read(view: View<State>, count: number): Promise<unknown[]> {
  const seen: unknown[] = [];
  while (seen.length < count) {
    const { value } = await view.next();
    seen.push(value?.type === "reset" ? value.state.entries : value?.push.seq);
  }
  return seen;
}

const push = (...seqs: number[]) => seqs.forEach((seq) => network.socket.pushes(STREAM, seq));

describe("a view", () => {
  test("gives the state, and then every later change", async () => {
    const client = await opened();
    const { view, answers } = viewing(client);
    push(2, 3);
    await answers(2);
    push(4);
    assert.deepEqual(await read(view, 3), [[1, 2], 3, 4]);
    assert.deepEqual(network.socket.last["data"], { positions: { [STREAM]: 3 } });
  });

  test("gives a state with its position, and a push with its envelope", async () => {
    const client = await opened();
    const view = client.openView(STREAM, () => upTo(1));
    await settle();
    network.socket.pushes(STREAM, 2, { text: "hello" });
    assert.deepEqual((await view.next()).value, { type: "reset", state: upTo(1), seq: 1 });
    const { value } = await view.next();
    assert.equal(value?.type, "change");
    assert.deepEqual([value.push.action, value.push.data, value.push.seq], ["chat.message", { text: "hello" }, 2]);
  });

  test("is read by a loop, and leaving it ends the view", async () => {
    const client = await opened();
    const { view, answers, signals } = viewing(client);
    await answers(2);
    for await (const update of view) {
      assert.equal(update.type, "reset");
      break;
    }
    assert.deepEqual(await view.next(), { done: true, value: undefined });
    assert.deepEqual(client.positions, {});
    assert.equal(signals[0]?.aborted, true);
  });

  test("loads the state again when changes were missed for good", async () => {
    const client = await opened();
    const { view, answers } = viewing(client);
    await answers(2);
    network.socket.answers({ streams: { [STREAM]: { seq: 9, complete: false } } });
    await answers(9);
    push(10);
    assert.deepEqual(await read(view, 2), [upTo(9).entries, 10], "the new state replaces what was not read");
  });

  test("drops what a slow reader does not take, and loads the state again once it is back", async () => {
    const client = await opened();
    const { view, answers, signals } = viewing(client, { limit: 2 });
    await answers(0);
    push(1, 2, 3);
    assert.equal(signals.length, 1);
    const next = read(view, 2);
    assert.equal(signals.length, 2);
    push(4);
    await answers(3);
    assert.deepEqual(await next, [[1, 2, 3], 4]);
  });

  test("keeps a thousand updates for a slow reader", async () => {
    const client = await opened();
    const { view, answers } = viewing(client);
    await answers(0);
    for (let seq = 1; seq < 1_000; seq++) push(seq);
    assert.equal((await read(view, 1_000)).at(-1), 999);
  });

  test("reports a load that may succeed later, and repeats it", async () => {
    const client = await opened();
    const errors = errorsOf(client);
    const failure = new TowpathError("timeout", "unknown outcome", { retryable: true });
    let tries = 0;
    const view = client.openView(STREAM, () => {
      if ((tries += 1) === 1) throw failure;
      return upTo(1);
    });
    await settle();
    assert.deepEqual(errors, [failure]);
    await wait(1_000);
    assert.deepEqual(await read(view, 1), [[1]]);
  });

  test("repeats a load that takes longer than it may", async () => {
    const client = await opened();
    const errors = errorsOf(client);
    const { view, answers, signals } = viewing(client, { timeout: 5_000 });
    await wait(5_000);
    assert.match(errors[0].message, /load\(\) gave no state of chat:lobby within 5 s/);
    await wait(1_000);
    assert.equal(signals.length, 2);
    await answers(7); // that of the first load, which is over
    await answers(1);
    assert.deepEqual(await read(view, 1), [[1]]);
  });

  test("ends with any other error of a load", async () => {
    const client = await opened();
    const broken = client.openView<State>(STREAM, () => {
      throw new RangeError("a bug of mine");
    });
    await assert.rejects(broken.next(), { code: "load_failed", message: /load\(\) of chat:lobby failed: a bug of mine/ });
    assert.deepEqual(await broken.next(), { done: true, value: undefined });
    const refused = client.openView<State>(STREAM, async () => {
      throw new TowpathError("forbidden", "not a member");
    });
    await assert.rejects(refused.next(), { code: "forbidden" });
  });

  test("ends when a state does not name its position", async () => {
    const client = await opened();
    for (const state of [{}, { seq: -1 }, { seq: "3" }, null]) {
      const view = client.openView(STREAM, () => state as unknown as State);
      await assert.rejects(view.next(), { code: "load_failed", message: /gave no position of chat:lobby: its state needs a seq/ });
    }
    const elsewhere = client.openView(STREAM, () => [9, 7], { position: (seqs) => Math.min(...seqs) });
    assert.deepEqual((await elsewhere.next()).value, { type: "reset", state: [9, 7], seq: 7 });
  });

  test("ends with the signal, and without one that is aborted already", async () => {
    const client = await opened();
    const giveUp = new AbortController();
    const { view, signals } = viewing(client, { signal: giveUp.signal });
    const next = view.next();
    giveUp.abort();
    await assert.rejects(next, { code: "aborted" });
    assert.equal(signals[0]?.aborted, true);
    await assert.rejects(viewing(client, { signal: AbortSignal.abort() }).view.next(), { code: "aborted" });
  });

  test("ends with the client, after what has come", async () => {
    const client = await opened();
    const { view, answers } = viewing(client);
    await answers(1);
    const waits = viewing(client).view.next();
    client.close();
    assert.deepEqual(await read(view, 1), [[1]]);
    await assert.rejects(view.next(), { code: "closed" });
    await assert.rejects(waits, { code: "closed" });
    await assert.rejects(viewing(client).view.next(), { code: "closed" });
  });

  test("shares its stream with other views, and frees it with the last one", async () => {
    const client = await opened();
    const [one, two] = [viewing(client), viewing(client)];
    await one.answers(1);
    await two.answers(1);
    push(2);
    assert.deepEqual([await read(one.view, 2), await read(two.view, 2)], [[[1], 2], [[1], 2]]);
    assert.equal(network.socket.sent.filter(({ action }) => action === "chat.resume").length, 1);
    one.view.close();
    push(3);
    assert.deepEqual(await read(two.view, 1), [3]);
    two.view.close();
    assert.deepEqual(client.positions, {});
  });

  test("is read by several who wait in turn", async () => {
    const client = await opened();
    const { view, answers } = viewing(client);
    const waiting = [view.next(), view.next(), view.next()];
    await answers(0);
    push(1);
    assert.deepEqual((await Promise.all(waiting.slice(0, 2))).map(({ value }) => value?.type), ["reset", "change"]);
    view.close();
    assert.deepEqual(await waiting[2], { done: true, value: undefined });
  });
});
