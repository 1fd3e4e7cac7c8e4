/** The demo server's three HTTP endpoints: what is there, a token for a name, an event as another backend sends it. */
import { TowpathError } from "@towpath/client";

import { Problem } from "./model/problem.ts";

export interface Config {
  gateways: string[];
  broker?: string;
  database?: string;
  /** Whether one signs in by name alone, and may play another backend. */
  demo?: boolean;
}

export async function fetchConfig(): Promise<Config> {
  return call("config.json");
}

export interface Token {
  readonly token: string;
  /** When it ends, in Unix milliseconds. */
  readonly until: number;
}

/** All that this page asks for: the domains, and the right to set stock. Anyone may have it, as it is a demo. */
const SCOPE = "chat order inventory notification inventory:write";

export async function fetchToken(user: string): Promise<Token> {
  const { token, expires_in } = await call<{ token: string; expires_in: number }>("demo/token", {
    user,
    scope: SCOPE,
  });
  return { token, until: Date.now() + expires_in * 1_000 };
}

/**
 * Publishes an order event, which takes the way of any other backend's.
 *
 * @returns the event's `msg_id`
 */
export async function publishEvent(action: string, data: object): Promise<string> {
  return (await call<{ msg_id: string }>("demo/events", { action, data })).msg_id;
}

/** @throws {Problem} `server_silent`; {@link TowpathError} with what the server says */
async function call<Answer>(path: string, body?: object): Promise<Answer> {
  const options = body && {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  let response: Response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Problem({ code: "server_silent" });
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const retryable = response.status >= 500 || response.status === 429;
  const message = answer.error ?? `${path}: ${response.status}`;
  throw new TowpathError(retryable ? "unavailable" : "invalid_data", message, { retryable });
}
