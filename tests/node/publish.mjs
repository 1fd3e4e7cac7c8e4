// Another backend, in Node with amqplib alone:
//   node publish.mjs amqp://… order.shipped '{"order_id": "O1", "user_id": "ana"}'
import amqp from "amqplib";

const [url, event, data] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();
const envelope = {
  msg_id: `node-${Date.now()}`,
  timestamp: Date.now(),
  action: event,
  data: JSON.parse(data),
  version: "1.0",
};
channel.publish("towpath.events", event, Buffer.from(JSON.stringify(envelope)), {
  contentType: "application/json",
  persistent: true,
});
await channel.waitForConfirms();
await connection.close();
