import assert from "node:assert/strict";
import { beforeEach, describe, mock, test } from "node:test";

import { CatchingUp, SPREAD_MS, WAIT_MS } from "../src/state/catching-up.ts";

const ALL_MS = WAIT_MS + SPREAD_MS;

describe("a position given beside the stream", () => {
  let resumes: number;
  let positions: Record<string, number>;
  let catchingUp: CatchingUp;

  beforeEach(() => {
    mock.timers.reset();
    mock.timers.enable({ apis: ["setTimeout"] });
    [resumes, positions] = [0, { lobby: 4, bank: 9 }];
    catchingUp = new CatchingUp((stream) => positions[stream], () => (resumes += 1));
  });

  test("resumes once for all streams that did not get there", () => {
    catchingUp.expect("lobby", 5);
    catchingUp.expect("bank", 10);
    mock.timers.tick(WAIT_MS - 1);
    assert.equal(resumes, 0);
    mock.timers.tick(SPREAD_MS + 1);
    assert.equal(resumes, 1);
    mock.timers.tick(10 * ALL_MS);
    assert.equal(resumes, 1);
  });

  test("costs nothing for a stream that got there, is there, or is not followed", () => {
    catchingUp.expect("lobby", 5);
    catchingUp.expect("bank", 9);
    catchingUp.expect("elsewhere", 3);
    positions["lobby"] = 5;
    mock.timers.tick(10 * ALL_MS);
    assert.equal(resumes, 0);
  });

  test("that is the last of several is waited for as well", () => {
    catchingUp.expect("lobby", 5);
    mock.timers.tick(WAIT_MS - 1);
    catchingUp.expect("lobby", 7);
    positions["lobby"] = 5;
    mock.timers.tick(SPREAD_MS + 1);
    assert.equal(resumes, 0);
    mock.timers.tick(ALL_MS);
    assert.equal(resumes, 1);
  });

  test("is forgotten with the connection", () => {
    catchingUp.expect("lobby", 5);
    catchingUp.stop();
    mock.timers.tick(10 * ALL_MS);
    assert.equal(resumes, 0);
  });
});
