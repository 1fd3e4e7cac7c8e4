/**
 * The demo server's three HTTP endpoints: what is there, a token for a name, an event as another backend sends it.
 */
import { TowpathError } from "/client/index.js";

/** @returns {Promise<{gateways: string[], broker?: string, database?: string, demo?: boolean}>} */
export async function fetchConfig() {
  return call("config.json");
}

/**
 * @param {string} user
 * @returns {Promise<string>}
 */
export async function fetchToken(user) {
  return (await call("demo/token", { user })).token;
}

/**
 * Publishes an order event, which takes the way of any other backend's.
 *
 * @param {string} action
 * @param {object} data
 * @returns {Promise<string>} the event's `msg_id`
 */
export async function publishEvent(action, data) {
  return (await call("demo/events", { action, data })).msg_id;
}

async function call(path, body) {
  const options = body && {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch (cause) {
    throw new TowpathError("unavailable", "The server of this page does not answer. Is it still running?", {
      retryable: true,
      cause,
    });
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const retryable = response.status >= 500 || response.status === 429;
  throw new TowpathError(retryable ? "unavailable" : "invalid_data", answer.error ?? `${path}: ${response.status}`, {
    retryable,
  });
}
