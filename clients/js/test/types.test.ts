/** Types that the type checker must accept or refuse; `npm run check` fails here. */
import assert from "node:assert/strict";
import { test } from "node:test";

import type { Client, ConnectOptions, Envelope, OrderView, State, TowpathError } from "../src/index.js";

declare module "../src/actions.js" {
  interface Actions {
    "delivery.estimate": { data: { postcode: string }; answer: { days: number } };
  }
  interface Pushes {
    "delivery.late": { minutes: number };
  }
}

type Same<One, Other> = (<T>() => T extends One ? 1 : 2) extends <T>() => T extends Other ? 1 : 2 ? true : false;
const same = <One, Other>(_: Same<One, Other>) => {};

/** Never run; only checked. */
async function use(client: Client): Promise<void> {
  const joined = await client.request("chat.join", { room: "lobby" }, { stream: "chat:lobby" });
  same<typeof joined.seq, number>(true);
  const { days } = await client.request("delivery.estimate", { postcode: "1000" });
  same<typeof days, number>(true);
  await client.request("chat.rooms");
  await client.request("chat.rooms", {}, { timeout: 5 });
  // @ts-expect-error: the room is missing
  await client.request("chat.join", {});
  // @ts-expect-error: the data is missing
  await client.request("chat.join");
  // @ts-expect-error: misspelt
  await client.request("chat.join", { rom: "lobby" });

  const submitted = await client.request("order.submit", { amount: "9.90", currency: "EUR" });
  same<typeof submitted.amount, string>(true);
  const order = await client.request("order.get", { order_id: "O1" });
  same<typeof order.amount, string | undefined>(true); // an event without the price may have been first
  same<typeof order.refunded, string | undefined>(true);

  const unknown = await client.request("shop.buy", { sku: "A" });
  same<typeof unknown, Record<string, any>>(true);
  await client.request("shop.list");
  const given = await client.request<{ id: string }>("shop.buy", { sku: "A" }, { key: "A" });
  same<typeof given, { id: string }>(true);
  // @ts-expect-error: data is an object
  await client.request("shop.buy", "A");
  // @ts-expect-error: no such option
  await client.request("shop.buy", {}, { patience: 5 });

  client.on("chat.message", (message, envelope) => {
    same<typeof message.text, string>(true);
    same<typeof envelope, Envelope<typeof message>>(true);
  });
  client.on("delivery.late", ({ minutes }) => same<typeof minutes, number>(true));
  client.on("shop.sold", (data) => same<typeof data, Record<string, any>>(true));
  client.on<{ sku: string }>("shop.sold", ({ sku }) => same<typeof sku, string>(true));
  client.on("*", (data) => same<typeof data, Record<string, any>>(true));
  client.on("state", (state, error) => {
    same<typeof state, State>(true);
    same<typeof error, TowpathError | undefined>(true);
  });
  client.on("retry", ({ delayMs }) => same<typeof delayMs, number>(true));
  client.on("incomplete", ({ seq }) => same<typeof seq, number | null>(true));
  client.on("error", (error) => same<typeof error, unknown>(true));
  for await (const { stream, seq } of client.stream("chat:lobby")) {
    same<typeof stream, string>(true);
    same<typeof seq, number>(true);
  }
  for await (const update of client.openView("order:ana", () => client.request("order.list"))) {
    if (update.type === "reset") same<typeof update.state.orders, OrderView[]>(true);
    else same<typeof update.push.seq, number>(true);
  }
  // @ts-expect-error: the list of rooms is the state of no stream, so it has no position
  client.openView("chat:lobby", () => client.request("chat.rooms"));
  client.openView("chat:lobby", () => client.request("chat.rooms"), { position: ({ rooms }) => rooms[0]?.seq ?? 0 });
}

/** The WebSocket of browsers, and so that of Node, fits as it is. */
const options: Pick<ConnectOptions, "WebSocket"> = { WebSocket: globalThis.WebSocket };

test("the types are checked by npm run check", () => {
  assert.equal(typeof use, "function");
  assert.ok("WebSocket" in options);
});
