import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, mock, test } from "node:test";

import { connect, memoryStorage, webStorage } from "../src/index.js";
import type { PositionStorage, StreamPositions } from "../src/index.js";
import { fileStorage } from "../src/node.js";
import { complaints, connecting, errorsOf, network, onAPage, opened, settle, wait } from "./client-under-test.js";

/** A storage that notes what is saved. */
function noting(kept: StreamPositions | null = null): PositionStorage & { saved: StreamPositions[] } {
  const saved: StreamPositions[] = [];
  return { saved, load: () => kept, save: (positions) => void saved.push(positions) };
}

const push = (...seqs: number[]) => seqs.forEach((seq) => network.socket.pushes("chat:lobby", seq));

describe("positions that were kept", () => {
  test("are loaded before the first connect, and resumed", async () => {
    let give = (_: StreamPositions) => {};
    const storage = { load: () => new Promise<StreamPositions>((resolve) => (give = resolve)), save: () => {} };
    const client = await connecting({ storage });
    assert.equal(network.sockets.length, 0);
    give({ "chat:lobby": 4 });
    await settle();
    network.socket.welcome();
    assert.deepEqual(network.socket.last["data"], { positions: { "chat:lobby": 4 } });
    assert.deepEqual(client.positions, { "chat:lobby": 4 });
  });

  test("give way to those given to connect, stream by stream", async () => {
    const storage = memoryStorage({ "chat:lobby": 4, "chat:den": 2 });
    const client = await opened({ storage, positions: { "chat:lobby": 9 } });
    assert.deepEqual(client.positions, { "chat:lobby": 9, "chat:den": 2 });
  });

  test("that cannot be loaded are reported and count as none", async () => {
    const failures: (() => unknown)[] = [
      () => {
        throw new Error("no disk");
      },
      () => Promise.reject(new Error("no disk")),
      () => "nonsense",
      () => [],
      () => ({ "chat:lobby": -1 }),
      () => ({ "chat:lobby": "4" }),
    ];
    for (const load of failures) {
      const client = await connecting({ storage: { load: load as PositionStorage["load"], save: () => {} } });
      assert.equal(complaints.mock.calls.at(-1)?.arguments[0].code, "bad_storage");
      network.socket.welcome();
      assert.deepEqual([client.state, client.positions], ["open", {}]);
    }
    assert.equal(complaints.mock.callCount(), failures.length);
  });

  test("that never come are waited for thirty seconds", async () => {
    const client = await connecting({ storage: { load: () => new Promise(() => {}), save: () => {} } });
    const errors = errorsOf(client);
    await wait(30_000);
    assert.deepEqual(errors.map(({ code }) => code), ["bad_storage"]);
    assert.equal(network.sockets.length, 1);
  });

  test("are not even asked for by a client that is closed at once", async () => {
    const load = mock.fn(() => new Promise<null>(() => {}));
    const client = connect({
      url: "ws://one/ws",
      token: () => "t-1",
      WebSocket: network.WebSocket,
      storage: { load, save: () => {} },
    });
    client.close();
    await settle();
    assert.equal(load.mock.callCount(), 0);
  });

  test("are not erased by a client that is closed before they were loaded", async () => {
    const storage = { ...noting(), load: () => new Promise<null>(() => {}) };
    const client = await connecting({ storage });
    client.track("chat:lobby", 1);
    await client.close();
    assert.deepEqual(storage.saved, []);
  });
});

describe("positions are saved", () => {
  test("at most every 200 ms, and only when they changed", async () => {
    const storage = noting();
    await opened({ storage });
    push(1, 2, 3);
    await wait(199);
    assert.deepEqual(storage.saved, []);
    await wait(1);
    push(4);
    assert.deepEqual(storage.saved, [{ "chat:lobby": 3 }]);
    await wait(200);
    network.socket.says("chat.typing");
    await wait(1_000);
    assert.deepEqual(storage.saved, [{ "chat:lobby": 3 }, { "chat:lobby": 4 }]);
  });

  test("once more when the client is closed, by the application or for good", async () => {
    for (const end of ["close", "kicked"]) {
      const storage = noting();
      const client = await opened({ storage });
      push(1);
      if (end === "close") await client.close();
      else network.socket.breaks(4502, "kicked");
      await client.close();
      await wait(10_000);
      assert.deepEqual(storage.saved, [{ "chat:lobby": 1 }]);
    }
  });

  test("only after the pushes up to them have been handed to the listeners", async () => {
    const seen: unknown[] = [];
    const storage = { load: () => null, save: (positions: StreamPositions) => void seen.push(positions["chat:lobby"]) };
    const client = await opened({ storage, positions: { "chat:lobby": 0 } });
    client.on("chat.message", (_, { seq }) => {
      seen.push(`got ${seq}`);
      if (seq === 1) client.close();
    });
    push(3, 2, 1);
    await settle();
    assert.deepEqual(seen, ["got 1", "got 2", "got 3", 3]);
  });

  test("only after a stream's reader is done with the pushes up to them", async () => {
    const storage = noting();
    const client = await opened({ storage });
    const reader = client.stream("chat:lobby");
    push(1, 2, 3);
    await wait(200);
    assert.deepEqual(storage.saved, [{ "chat:lobby": 0 }]);
    await reader.next();
    await reader.next();
    await wait(200);
    assert.deepEqual(storage.saved.at(-1), { "chat:lobby": 1 }, "2 is in hand, 3 is waiting");
    const waiting = [reader.next(), reader.next()];
    await wait(200);
    assert.deepEqual(storage.saved.at(-1), { "chat:lobby": 3 });
    client.close();
    await Promise.allSettled(waiting);
  });

  test("without a stream that was forgotten, whatever its reader still has", async () => {
    const storage = noting({ "chat:den": 1 });
    const client = await opened({ storage });
    client.stream("chat:lobby");
    push(1, 2);
    client.forget("chat:lobby");
    await client.close();
    assert.deepEqual(storage.saved, [], "nothing else changed");
  });

  test("one after the other, the newest last", async () => {
    const saved: StreamPositions[] = [];
    const done: (() => void)[] = [];
    const save = (positions: StreamPositions) => {
      saved.push(positions);
      return new Promise<void>((resolve) => done.push(resolve));
    };
    const client = await opened({ storage: { load: () => null, save } });
    push(1);
    await wait(200);
    push(2);
    await wait(200);
    push(3);
    await wait(200);
    assert.equal(saved.length, 1, "the first one is still under way");
    let closed = false;
    const closing = client.close().then(() => (closed = true));
    await settle();
    assert.equal(closed, false);
    done[0]?.();
    await settle();
    assert.deepEqual(saved, [{ "chat:lobby": 1 }, { "chat:lobby": 3 }]);
    done[1]?.();
    await closing;
  });

  test("and a failure is reported, does not stop the client, and is retried with the next change", async () => {
    const saved: StreamPositions[] = [];
    const failures = [
      () => {
        throw new Error("disk full");
      },
      () => Promise.reject(new Error("still full")),
    ];
    const save = (positions: StreamPositions) => failures.shift()?.() ?? void saved.push(positions);
    const client = await opened({ storage: { load: () => null, save } });
    const errors = errorsOf(client);
    for (const seq of [1, 2, 3]) {
      push(seq);
      await wait(200);
    }
    assert.deepEqual(
      errors.map(({ code, message, retryable }) => [code, message, retryable]),
      [
        ["bad_storage", "Positions could not be saved: disk full", true],
        ["bad_storage", "Positions could not be saved: still full", true],
      ],
    );
    assert.deepEqual(saved, [{ "chat:lobby": 3 }]);
  });

  test("and closing does not fail when the last save does", async () => {
    const client = await opened({ storage: { load: () => null, save: () => Promise.reject(new Error("disk full")) } });
    const errors = errorsOf(client);
    push(1);
    await client.close();
    assert.deepEqual(errors.map(({ code }) => code), ["bad_storage"]);
  });

  test("when the page is left", async () => {
    const page = onAPage();
    const storage = noting();
    const client = await opened({ storage });
    push(1);
    page.dispatchEvent(new Event("pagehide"));
    await settle(); // no timer had to go off: there may be no later
    assert.deepEqual(storage.saved, [{ "chat:lobby": 1 }]);
    await client.close();
  });
});

describe("memoryStorage", () => {
  test("lets the next client go on where the last one ended", async () => {
    const storage = memoryStorage();
    const first = await opened({ storage });
    push(1, 2);
    await first.close();
    await opened({ storage });
    assert.deepEqual(network.socket.last["data"], { positions: { "chat:lobby": 2 } });
  });
});

describe("webStorage", () => {
  const item = (value: string | null = null) => ({
    value,
    getItem(key: string) {
      return key === "mine" ? this.value : null;
    },
    setItem(key: string, text: string) {
      if (key === "mine") this.value = text;
    },
  });

  test("keeps positions in one item", () => {
    const items = item();
    const storage = webStorage("mine", items);
    assert.equal(storage.load(), null);
    storage.save({ "chat:lobby": 4 });
    assert.equal(items.value, '{"chat:lobby":4}');
    assert.deepEqual(storage.load(), { "chat:lobby": 4 });
  });

  test("that holds nonsense, or is forbidden, is reported and counts as empty", async () => {
    for (const storage of [webStorage("mine", item("{")), webStorage("mine")]) {
      const client = await opened({ storage });
      assert.equal(complaints.mock.calls.at(-1)?.arguments[0].code, "bad_storage");
      assert.equal(client.state, "open");
    }
  });
});

describe("fileStorage", () => {
  const folder = mkdtempSync(join(tmpdir(), "towpath-"));
  after(() => rmSync(folder, { recursive: true }));

  test("keeps positions in a file, and leaves nothing else behind", async () => {
    const path = join(folder, "positions.json");
    const storage = fileStorage(path);
    assert.equal(await storage.load(), null);
    await storage.save({ "chat:lobby": 4 });
    await storage.save({ "chat:lobby": 5 });
    assert.deepEqual(await fileStorage(path).load(), { "chat:lobby": 5 });
    assert.deepEqual(readdirSync(folder), ["positions.json"]);
  });

  test("replaces the file as a whole or not at all", async () => {
    const path = join(folder, "positions.json");
    writeFileSync(path, '{"chat:lobby":5}');
    const storage = fileStorage(path);
    await assert.rejects(async () => storage.save({ "chat:lobby": 6n as never }));
    assert.equal(readFileSync(path, "utf8"), '{"chat:lobby":5}');
    assert.deepEqual(readdirSync(folder), ["positions.json"]);
  });

  test("says what is wrong with a file or folder that cannot be used", async () => {
    writeFileSync(join(folder, "broken.json"), "{");
    await assert.rejects(async () => fileStorage(join(folder, "broken.json")).load(), SyntaxError);
    await assert.rejects(async () => fileStorage(folder).load(), { code: "EISDIR" });
    await assert.rejects(async () => fileStorage(join(folder, "none", "positions.json")).save({}), { code: "ENOENT" });
  });
});
