// The plainest gateway that keeps its word, as bare_gateway.py is it, on `ws` and `amqplib`.
//
// Requests are persistent and confirmed, and what comes from the broker is acked. Rooms are kept in memory; what is
// said in one goes through the worker. Nothing is batched, limited, checked or measured.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import amqp from "amqplib";
import { WebSocketServer } from "ws";

const GATEWAY = `g${randomBytes(4).toString("hex")}`;

const connections = new Map();
const users = new Map();
const rooms = new Map();

const add = (sets, name, socket) => {
  const members = sets.get(name);
  if (members) members.add(socket);
  else sets.set(name, new Set([socket]));
};

const remove = (sets, name, socket) => {
  const members = sets.get(name);
  if (members?.delete(socket) && members.size === 0) sets.delete(name);
};

const broadcast = (sockets = [], body) => {
  for (const socket of sockets) socket.send(body, { binary: false });
};

// Messages of the worker or another backend, to the connections they are for.
const deliver = ({ fields, content }) => {
  const [kind, name] = fields.routingKey.split(".");
  if (kind === "gateway") {
    const directed = JSON.parse(content);
    connections.get(directed.connection)?.send(JSON.stringify(directed.envelope));
  } else {
    broadcast((kind === "user" ? users : rooms).get(name), content);
  }
};

const broker = await amqp.connect(process.env.TOWPATH_AMQP_URL, { noDelay: true });
const publishing = await broker.createConfirmChannel();
const consuming = await broker.createChannel();
await consuming.prefetch(100);
await consuming.assertExchange("bench.push", "topic", { durable: true });
const inbox = await consuming.assertQueue("", { exclusive: true });
for (const key of [`gateway.${GATEWAY}`, "user.*", "room.*"]) {
  await consuming.bindQueue(inbox.queue, "bench.push", key);
}
await consuming.consume(inbox.queue, (message) => {
  deliver(message);
  consuming.ack(message);
});

const converse = (socket, request) => {
  const name = randomBytes(8).toString("hex");
  const user = request.headers["x-user"];
  const joined = new Set();
  connections.set(name, socket);
  add(users, user, socket);
  socket.send('{"action":"session.welcome"}');

  socket.on("message", (text) => {
    const envelope = JSON.parse(text);
    const { action, msg_id, data } = envelope;
    if (action === "room.join" || action === "room.leave") {
      const joins = action === "room.join";
      (joins ? add : remove)(rooms, data.room, socket);
      joined[joins ? "add" : "delete"](data.room);
      socket.send(
        JSON.stringify({ action: `${action}.ok`, data: { room: data.room }, correlation_id: msg_id }),
      );
      return;
    }
    publishing.sendToQueue(
      "bench.work",
      Buffer.from(JSON.stringify({ gateway: GATEWAY, connection: name, user, envelope })),
      { contentType: "application/json", persistent: true },
      (refused) => refused && socket.close(1011),
    );
  });

  socket.on("close", () => {
    connections.delete(name);
    remove(users, user, socket);
    for (const room of joined) remove(rooms, room, socket);
  });
};

const server = createServer();
new WebSocketServer({ server, perMessageDeflate: false }).on("connection", converse);
server.listen({ host: "127.0.0.1", port: Number(process.env.TOWPATH_PORT), backlog: 4096 });
await once(server, "listening");
console.log("serving"); // the starting process waits for this line
