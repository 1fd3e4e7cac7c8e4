/** The promises that all clients keep: libs/protocol/vectors. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { describe, test } from "node:test";

import { TowpathError } from "../src/errors.js";
import { Session } from "../src/session.js";
import type { Action, Event } from "../src/events.js";

type Fields = Record<string, any>;

interface Step {
  at?: number;
  event: Fields;
  actions: Fields[];
  state?: string;
  positions?: Record<string, number>;
}

interface Vector {
  name: string;
  options?: { urls?: string[]; positions?: Record<string, number>; queue_limit?: number };
  given?: string;
  steps: Step[];
}

const VECTORS = new URL("../../../libs/protocol/vectors/", import.meta.url);
/** Those of now, and those that stood beside the contract's first text. */
const TEXTS = ["session/", "first_text/session/"];
const BEGINNING = 1_000_000;

const read = (name: string) => JSON.parse(readFileSync(new URL(name, VECTORS), "utf8"));
const topics = TEXTS.flatMap((text) =>
  readdirSync(new URL(text, VECTORS))
    .filter((name) => name.endsWith(".json") && name !== "givens.json")
    .map((name) => text + name),
);

/** An event as the session takes it. */
function eventOf({ envelope, error, ...event }: Fields): Event {
  if (envelope !== undefined) {
    event["text"] = JSON.stringify({ msg_id: "srv", timestamp: 0, version: "1.0", ...envelope });
  }
  if (error !== undefined) event["error"] = new TowpathError(error.code, error.message, { ...error, retryAfterMs: error.retry_after_ms });
  return event as Event;
}

/** An action as the vectors write it. */
function written(action: Action): Fields {
  if (action.do === "send") return { do: "send", envelope: JSON.parse(action.text) };
  if (!("error" in action) || action.error === undefined) return action;
  const { code, message, retryable, details, retryAfterMs, traceId } = action.error;
  return { ...action, error: { code, message, retryable, details, retry_after_ms: retryAfterMs, trace_id: traceId } };
}

/** The fields of `wanted`, with the values of `got`. */
function listed(wanted: Fields, got: Fields): Fields {
  return Object.fromEntries(
    Object.entries(wanted).map(([name, value]) => {
      const nested = (name === "envelope" || name === "error") && got[name] !== undefined;
      return [name, nested ? listed(value, got[name]) : (got[name] ?? null)];
    }),
  );
}

function run({ options, given, steps }: Vector, givens: Record<string, Fields[]>): void {
  const session = new Session({
    urls: options?.urls ?? ["ws://one/ws"],
    idPrefix: "s",
    positions: options?.positions,
    queueLimit: options?.queue_limit,
  });
  for (const event of given === undefined ? [] : (givens[given] ?? assert.fail(`no such given: ${given}`))) {
    session.handle(eventOf(event), BEGINNING);
  }
  let now = BEGINNING;
  let { state, positions } = session;
  for (const [index, step] of steps.entries()) {
    const said = `step ${index + 1}: ${JSON.stringify(step.event)}`;
    if (step.at !== undefined) now = BEGINNING + step.at;
    const got = session.handle(eventOf(step.event), now).map(written);
    assert.deepEqual(
      got.map((action, at) => listed(step.actions[at] ?? action, action)),
      step.actions,
      said,
    );
    assert.equal(session.state, step.state ?? state, said);
    assert.deepEqual(session.positions, step.positions ?? positions, said);
    ({ state, positions } = session);
  }
}

for (const topic of topics) {
  const { about, vectors }: { about: string; vectors: Vector[] } = read(topic);
  const givens = read(topic.replace(/[^/]*$/, "givens.json"));
  describe(`${topic.replace(".json", "")}: ${about}`, () => {
    for (const vector of vectors) test(vector.name, () => run(vector, givens));
  });
}

test("the vectors are there, and no two are called the same", () => {
  const names = topics.flatMap((topic) => read(topic).vectors.map(({ name }: Vector) => `${topic}: ${name}`));
  assert.ok(names.length > 100, `${names.length} vectors`);
  assert.equal(new Set(names).size, names.length);
});
