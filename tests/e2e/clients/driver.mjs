/**
 * Drives the JavaScript client for towpath.testkit.client_process: a command a line on standard input, an event a line
 * on standard output. driver.py is the same for Python.
 */
import { createInterface } from "node:readline";

import { connect } from "@towpath/client";
import { fileStorage } from "@towpath/client/node";

let client;
const tokensAsked = [];

const commands = {
  connect({ urls, positions, queue_limit: queueLimit, storage }) {
    client = connect({ urls, token, positions, queueLimit, storage: storage && fileStorage(storage) });
    client.onState((state, error) =>
      say("state", { state, gateway_id: client.connection?.gateway_id, error: error && plain(error) }),
    );
    client.onError((error) => say("error", { error: plain(error) }));
    client.on("retry", ({ attempt, delayMs, code }) => say("retry", { attempt, delay: delayMs / 1000, code }));
    client.on("incomplete", (incomplete) => say("incomplete", incomplete));
    client.on("*", (_, envelope) => say("push", { envelope }));
  },
  opened: ({ timeout }) => client.opened(timeout * 1000),
  request: ({ id, action, data, key, stream, ack, msg_id: msgId, timeout = 30 }) =>
    client.request(action, data, {
      key,
      stream,
      msgId,
      timeout: timeout * 1000,
      ack: ack && (() => say("accepted", { id })),
    }),
  async stream({ stream }) {
    for await (const envelope of client.stream(stream)) say("streamed", { envelope });
  },
  async view({ stream, action, data }) {
    const load = () => {
      say("load", { stream });
      return client.request(action, data);
    };
    for await (const update of client.openView(stream, load)) {
      if (update.type === "reset") say("reset", { stream, seq: update.seq, state: update.state });
      else say("change", { stream, seq: update.push.seq, envelope: update.push });
    }
  },
  token({ token, error }) {
    const asked = tokensAsked.shift();
    if (error === undefined) asked.resolve(token);
    else asked.reject(new Error(error));
  },
  close: () => client?.close(),
};

function token() {
  return new Promise((resolve, reject) => {
    tokensAsked.push({ resolve, reject });
    say("token");
  });
}

function say(event, particulars = {}) {
  process.stdout.write(`${JSON.stringify({ event, at: performance.now() / 1000, ...particulars })}\n`);
}

function plain({ code, message, retryable, details }) {
  return { code, message, retryable, details };
}

async function obey({ do: name, id, ...particulars }) {
  try {
    say("answer", { id, data: (await commands[name]({ id, ...particulars })) ?? {} });
  } catch (error) {
    say("failed", { id, error: plain(error) });
  }
}

for (const wrong of ["uncaughtException", "unhandledRejection", "warning"]) {
  process.on(wrong, (what) => say("unhandled", { what: String(what?.stack ?? what) }));
}
createInterface({ input: process.stdin }).on("line", (line) => void obey(JSON.parse(line)));
