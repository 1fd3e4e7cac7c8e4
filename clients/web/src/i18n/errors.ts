/** The meaning of an error, in the words of a language. */
import { TowpathError } from "@towpath/client";

import { Problem, type Reason } from "../model/problem.ts";
import type { Words } from "./en.ts";

export function describe(error: unknown, words: Words): string {
  if (error instanceof Problem) return problem(error.reason, words);
  if (!(error instanceof TowpathError)) return error instanceof Error ? error.message : words.somethingWrong;
  const said = words.serverTexts.flatMap(([text, meaning]) => {
    const match = text.exec(error.message);
    return match === null ? [] : [meaning(...match.slice(1))];
  });
  if (said.length > 0) return said[0]!;
  const particular = words.speaksAsServices ? fields(error.details?.fields) || error.message : "";
  return words.errors[error.code] ?? (particular || words.somethingWrong);
}

function problem(reason: Reason, { problems }: Words): string {
  switch (reason.code) {
    case "no_such_gateway":
      return problems.noSuchGateway(reason.wanted, reason.count);
    case "bad_gateway":
      return problems.badGateway(reason.wanted);
    case "foreign_gateway":
      return problems.foreignGateway(reason.host);
    case "server_silent":
      return problems.serverSilent;
    case "own_name":
      return problems.ownName;
    case "too_long":
      return problems.tooLong(reason.excess, reason.limit);
  }
}

function fields(data: unknown): string {
  if (!Array.isArray(data)) return "";
  return data.map(({ field, problem }: { field?: string; problem?: string }) => `${field}: ${problem}`).join("; ");
}
