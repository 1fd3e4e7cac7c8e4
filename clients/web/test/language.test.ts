import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { TowpathError } from "@towpath/client";

import { describe as describeError } from "../src/i18n/errors.ts";
import { DICTIONARIES, bestLanguage, languageOf } from "../src/i18n/language.ts";
import { Problem } from "../src/model/problem.ts";

const read = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");
const codesIn = (path: string, pattern: RegExp) => [...read(path).matchAll(pattern)].map(([, code]) => code!);

const DAY = 24 * 60 * 60_000;
const NOON = new Date(2026, 2, 5, 12).getTime();

describe("a language", () => {
  test("is the first of the browser's that there is, else English", () => {
    assert.equal(bestLanguage(["fr-FR", "zh-Hant-TW", "en"]), "zh");
    assert.equal(bestLanguage(["en-GB", "zh"]), "en");
    assert.equal(bestLanguage(["fr", "de"]), "en");
  });

  test("writes money exactly, with more digits than a number has", () => {
    const english = languageOf("en", ["en-US"]);
    assert.equal(english.money("9999999999999.99", "USD"), "$9,999,999,999,999.99");
    assert.equal(languageOf("zh").money("99.90", "CNY"), "¥99.90");
    assert.equal(english.money("500", "JPY"), "¥500");
    assert.equal(english.money("500.00", "JPY"), "¥500.00");
    assert.equal(english.money("1.234", "KWD"), "KWD\u00a01.234");
    assert.equal(english.money("1.00", "no such"), "1.00 no such");
  });

  test("names days near by what one calls them", () => {
    const english = languageOf("en");
    assert.deepEqual([english.day(NOON, NOON), english.day(NOON - DAY, NOON)], ["Today", "Yesterday"]);
    assert.equal(english.day(NOON - 3 * DAY, NOON), "Monday, March 2");
    assert.equal(english.day(NOON - 366 * DAY, NOON), "March 4, 2025");
    assert.equal(languageOf("zh").day(NOON, NOON), "今天");
  });

  test("says the day of a moment only where it is not today", () => {
    const british = languageOf("en", ["en-GB"]);
    assert.deepEqual([british.moment(NOON, NOON), british.moment(NOON - DAY, NOON)], ["12:00", "4 Mar, 12:00"]);
  });

  test("has a word for everything that the other has one for", () => {
    const keys = (words: object, path = ""): string[] =>
      Object.entries(words).flatMap(([key, value]) =>
        typeof value === "object" ? keys(value as object, `${path}${key}.`) : [`${path}${key}`],
      );
    // Of the services' errors English needs no words: they come in English.
    const but = (all: string[]) => all.filter((key) => !/^(errors|serverTexts)\./.test(key));
    assert.deepEqual(but(keys(DICTIONARIES.zh)), but(keys(DICTIONARIES.en)));
  });
});

describe("an error", () => {
  const { en, zh } = DICTIONARIES;

  test("is shown in the service's own words, and in Chinese with a translation", () => {
    const error = new TowpathError("forbidden", "You are not in 'lobby'.");
    assert.equal(describeError(error, en), "You are not in 'lobby'.");
    assert.equal(describeError(error, zh), "不允许此操作。");
    const known = new TowpathError("forbidden", "You are not in room 'lobby': join it first.");
    assert.equal(describeError(known, zh), "你不在房间“lobby”里，请先加入。");
  });

  test("has a meaning in Chinese for every code of the contract and of the client", () => {
    const codes = [
      ...codesIn("libs/protocol/src/towpath/protocol/errors.py", /^ {4}[A-Z_]+ = "(\w+)"$/gm),
      ...codesIn("clients/js/src/errors.ts", /^ {2}\| "(\w+)"/gm),
    ];
    assert.ok(codes.length > 20, String(codes));
    for (const code of codes) {
      const said = describeError(new TowpathError(code, "Some words in English."), zh);
      assert.match(said, /[\u4e00-\u9fff]/, code);
      assert.doesNotMatch(said.replace("WebSocket", ""), /[A-Za-z]/, code);
    }
    assert.equal(describeError(new TowpathError("new_code", "Some words."), zh), zh.somethingWrong);
  });

  test("of chat has its own words in Chinese", () => {
    for (const file of ["errors.py", "limits.py", "blocks.py", "fanout.py"]) {
      const source = read(`services/chat/src/towpath/chat/${file}`);
      // Each text that is given to an exception, its parts put together, with something in place of what is filled in.
      const texts = [...source.matchAll(/(?:__init__|raise \w+)\(\s*((?:f?"[^"]*"\s*)+)/g)].map(([, parts]) =>
        [...parts!.matchAll(/"([^"]*)"/g)].map(([, part]) => part).join(""),
      );
      assert.ok(texts.length > 0, file);
      for (const text of texts.filter((some) => !/^\{(field|subject)\}|^user: \{/.test(some))) {
        const filled = text.replace(/\{[^}]*!r\}/g, "'it\"s'").replace(/\{[^}]*\}/g, "1,000");
        assert.ok(
          zh.serverTexts.some(([pattern]) => pattern.test(filled)),
          `${file}: ${filled}`,
        );
      }
    }
  });

  test("names the fields that are wrong", () => {
    const details = { fields: [{ field: "amount", problem: "too large" }] };
    assert.equal(describeError(new TowpathError("invalid_data", "data", { details }), en), "amount: too large");
  });

  test("of a service that is not there says what to do", () => {
    assert.match(describeError(new TowpathError("unknown_action", "no service"), en), /Try again/);
  });

  test("of this page has its words in each language", () => {
    const problem = new Problem({ code: "foreign_gateway", host: "evil.example" });
    for (const words of [en, zh]) assert.match(describeError(problem, words), /evil\.example/);
  });
});
