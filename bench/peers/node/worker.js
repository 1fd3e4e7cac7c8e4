// The plainest worker that keeps its word, as bare_worker.py is it, on `amqplib`: confirms, and an ack once the answer
// is confirmed.

import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const envelope = (action, data, more = {}) => ({
  msg_id: randomUUID().replaceAll("-", ""),
  timestamp: Date.now(),
  action,
  data,
  version: "1.0",
  ...more,
});

const broker = await amqp.connect(process.env.TOWPATH_AMQP_URL, { noDelay: true });
const channel = await broker.createConfirmChannel();
await channel.prefetch(100);
await channel.assertExchange("bench.push", "topic", { durable: true });
await channel.assertQueue("bench.work", { durable: true });

// Gateways start and stop: there may be no receiver, so it is not mandatory.
const publish = (key, body) =>
  new Promise((confirmed, refused) => {
    const options = { contentType: "application/json" };
    const content = Buffer.from(JSON.stringify(body));
    channel.publish("bench.push", key, content, options, (error) => (error ? refused(error) : confirmed()));
  });

const handle = async (message) => {
  const { gateway, connection, user, envelope: asked } = JSON.parse(message.content);
  if (asked.action === "room.say") {
    await publish(`room.${asked.data.room}`, envelope("room.said", { ...asked.data, user }));
  }
  const answer = envelope(`${asked.action}.ok`, asked.data, { correlation_id: asked.msg_id });
  await publish(`gateway.${gateway}`, { connection, envelope: answer });
  channel.ack(message);
};

await channel.consume("bench.work", handle);
console.log("serving"); // the starting process waits for this line
