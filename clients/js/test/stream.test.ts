import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";

import type { StreamReader } from "../src/index.js";
import { RETURN_MS, network, opened, wait } from "./client-under-test.js";

const push = (...seqs: number[]) => seqs.forEach((seq) => network.socket.pushes("chat:lobby", seq));

/** The readable pushes, and the end. */
async function read(reader: StreamReader, count = Infinity): Promise<unknown[]> {
  const seen: unknown[] = [];
  try {
    for await (const { seq } of reader) {
      seen.push(seq);
      if (seen.length === count) break;
    }
  } catch (error) {
    seen.push((error as { code: string }).code);
  }
  return seen;
}

describe("a stream", () => {
  test("gives its pushes from the moment it is asked for, in order and once", async () => {
    const client = await opened();
    push(1);
    const reader = client.stream("chat:lobby");
    push(2, 2, 4);
    network.socket.pushes("chat:den", 7);
    push(3);
    assert.deepEqual(await read(reader, 3), [2, 3, 4]);
  });

  test("gives envelopes, as they come", async () => {
    const client = await opened();
    const reader = client.stream("chat:lobby");
    const next = reader.next();
    network.socket.pushes("chat:lobby", 1, { text: "hello" });
    const { value } = await next;
    assert.deepEqual([value?.action, value?.data, value?.seq], ["chat.message", { text: "hello" }, 1]);
  });

  test("goes on over a reconnect", async () => {
    const client = await opened({ positions: { "chat:lobby": 1 } });
    const reader = client.stream("chat:lobby");
    push(2);
    network.socket.breaks();
    await wait(RETURN_MS);
    network.socket.welcome();
    push(2, 3);
    assert.deepEqual(await read(reader, 2), [2, 3]);
  });

  test("is read by several, each with its own pace", async () => {
    const client = await opened();
    const [one, two] = [client.stream("chat:lobby"), client.stream("chat:lobby")];
    push(1, 2);
    assert.deepEqual(await read(one, 2), [1, 2]);
    push(3);
    assert.deepEqual(await read(two, 3), [1, 2, 3]);
  });

  test("ends for a reader that is too far behind, after all kept pushes, with the position to continue from", async () => {
    const client = await opened();
    const reader = client.stream("chat:lobby", { limit: 2 });
    push(1, 2, 3, 4);
    assert.equal((await reader.next()).value?.seq, 1);
    assert.equal((await reader.next()).value?.seq, 2);
    await assert.rejects(reader.next(), { code: "overrun", details: { stream: "chat:lobby", position: 2 } });
    assert.deepEqual(await reader.next(), { done: true, value: undefined });
  });

  test("keeps a thousand pushes for a reader that is slow", async () => {
    const client = await opened();
    const reader = client.stream("chat:lobby");
    for (let seq = 1; seq <= 1_001; seq++) push(seq);
    const seen = await read(reader);
    assert.deepEqual([seen.length, seen.at(-2), seen.at(-1)], [1_001, 1_000, "overrun"]);
  });

  test("that one reader overran goes on for the others", async () => {
    const client = await opened();
    const [slow, quick] = [client.stream("chat:lobby", { limit: 1 }), client.stream("chat:lobby")];
    push(1, 2, 3);
    assert.deepEqual(await read(slow), [1, "overrun"]);
    assert.deepEqual(await read(quick, 3), [1, 2, 3]);
  });

  test("ends with the reason when the client is closed for good, after what has come", async () => {
    const client = await opened();
    const reader = client.stream("chat:lobby");
    push(1);
    network.socket.breaks(4502, "revoked");
    assert.equal((await reader.next()).value?.seq, 1);
    await assert.rejects(reader.next(), { code: "closed", message: /4502: revoked/ });
    await assert.rejects(client.stream("chat:lobby").next(), { code: "closed" });
  });

  test("ends for those who wait when the client is closed", async () => {
    const client = await opened();
    const reader = client.stream("chat:lobby");
    const waiting = [reader.next(), reader.next()];
    client.close();
    await assert.rejects(waiting[0]!, { code: "closed" });
    assert.deepEqual(await waiting[1], { done: true, value: undefined });
  });

  test("several who wait are served in turn", async () => {
    const client = await opened();
    const reader = client.stream("chat:lobby");
    const waiting = [reader.next(), reader.next()];
    push(1, 2);
    assert.deepEqual((await Promise.all(waiting)).map(({ value }) => value?.seq), [1, 2]);
  });

  test("is left by leaving the loop", async () => {
    const client = await opened();
    const reader = client.stream("chat:lobby");
    push(1, 2);
    assert.deepEqual(await read(reader, 1), [1]);
    push(3);
    assert.deepEqual(await reader.next(), { done: true, value: undefined });
  });

  test("is left by a loop that throws", async () => {
    const client = await opened();
    const reader = client.stream("chat:lobby");
    push(1);
    const loop = async () => {
      for await (const _ of reader) throw new Error("no more");
    };
    await assert.rejects(loop, /no more/);
    assert.deepEqual(await reader.next(), { done: true, value: undefined });
  });

  test("leaves nothing on the signal once it has ended", async () => {
    const client = await opened();
    const { signal } = new AbortController();
    const readers = [client.stream("chat:lobby", { signal }), client.stream("chat:den", { signal })];
    assert.equal(getEventListeners(signal, "abort").length, 2);
    await readers[0]?.return();
    client.close();
    assert.deepEqual(getEventListeners(signal, "abort"), []);
  });

  test("can be given up by a signal, at once and before", async () => {
    const client = await opened();
    const stop = new AbortController();
    const reader = client.stream("chat:lobby", { signal: stop.signal });
    const waiting = reader.next();
    stop.abort("enough");
    await assert.rejects(waiting, { code: "aborted", cause: "enough" });
    await assert.rejects(client.stream("chat:lobby", { signal: stop.signal }).next(), { code: "aborted" });
    const later = new AbortController();
    const kept = client.stream("chat:lobby", { signal: later.signal });
    push(1);
    later.abort();
    await assert.rejects(kept.next(), { code: "aborted" }, "kept pushes are dropped");
  });
});
