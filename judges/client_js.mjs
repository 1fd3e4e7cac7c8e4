/**
 * Autobahn's client for the JavaScript client: sends back what its socket receives, a case a connection.
 * Run by autobahn.py: node --import tsx client_js.mjs <url of the fuzzing server> <agent>
 */
import { openSocket } from "../clients/js/src/socket.ts";

const [url, agent] = process.argv.slice(2);

/** Autobahn's server selects no subprotocol, and a WebSocket that offered one fails then, as the standard demands. */
class WithoutProtocols extends WebSocket {
  constructor(address) {
    super(address);
  }
}

/** One connection, until it ends; returns what was received. */
function converse(address) {
  return new Promise((resolve) => {
    const heard = [];
    const socket = openSocket(WithoutProtocols, address, "no-token", {
      text: (text) => {
        heard.push(text);
        if (typeof text === "string") socket.send(text);
      },
      ended: () => resolve(heard),
      report: (error) => console.log(address, error),
    });
  });
}

const count = Number((await converse(`${url}/getCaseCount`))[0]);
for (let number = 1; number <= count; number++) await converse(`${url}/runCase?case=${number}&agent=${agent}`);
await converse(`${url}/updateReports?agent=${agent}`);
