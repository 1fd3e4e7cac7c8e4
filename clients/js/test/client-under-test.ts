/** A client on a fake network with a clock of its own. Unhandled errors fail the test that made them. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock } from "node:test";
import type { Mock } from "node:test";

import { connect } from "../src/index.js";
import type { Client, ConnectOptions } from "../src/index.js";
import { savingModule } from "../src/client.js";
import { SPREAD_MS } from "../src/times.js";
import { Network } from "./network.js";

/** When a client that lost its connection is back, as chance has it here. */
export const RETURN_MS = SPREAD_MS / 2;

await savingModule(); // clients with a storage wait for it, and for no time once it is there

export let network: Network;
/** The console's error output. */
export let complaints: Mock<typeof console.error>;

const unhandled: unknown[] = [];
process.on("unhandledRejection", (reason) => unhandled.push(reason));
process.on("uncaughtException", (error) => unhandled.push(error));

beforeEach(() => {
  network = new Network();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  mock.method(Math, "random", () => 0.5);
  complaints = mock.method(console, "error", () => {});
});

afterEach(async () => {
  for (const name of PAGE) Reflect.deleteProperty(globalThis, name);
  mock.timers.reset();
  mock.restoreAll();
  await new Promise((resolve) => setImmediate(resolve)); // rejections are reported after the microtasks
  assert.deepEqual(unhandled.splice(0), [], "unhandled errors");
});

/** A client whose socket is about to be opened. */
export async function connecting(options: Partial<ConnectOptions> = {}): Promise<Client> {
  const url = options.urls === undefined ? "ws://one/ws" : undefined;
  const client = connect({ url, token: () => "t-1", WebSocket: network.WebSocket, ...options });
  await settle();
  return client;
}

export async function opened(options: Partial<ConnectOptions> = {}): Promise<Client> {
  const client = await connecting(options);
  network.socket.welcome();
  return client;
}

const PAGE = ["addEventListener", "removeEventListener"] as const;

/** Lets clients that are made from now on find a page to listen to. */
export function onAPage(): EventTarget {
  const page = new EventTarget();
  for (const name of PAGE) Object.assign(globalThis, { [name]: page[name].bind(page) });
  return page;
}

/** Lets time pass, and whatever follows happen. */
export async function wait(ms: number): Promise<void> {
  mock.timers.tick(ms);
  await settle();
}

/** Lets promises that are due go on. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 40; turn++) await null;
}

/** The errors that the client reports from now on. */
export function errorsOf(client: Client): any[] {
  const errors: any[] = [];
  client.onError((error) => errors.push(error));
  return errors;
}
