/** Problems that this page itself finds. The dictionaries have the words. */

export type Reason =
  | { code: "no_such_gateway"; wanted: string; count: number }
  | { code: "bad_gateway"; wanted: string }
  | { code: "foreign_gateway"; host: string }
  | { code: "server_silent" }
  | { code: "own_name" }
  | { code: "too_long"; excess: number; limit: number };

export class Problem extends Error {
  constructor(readonly reason: Reason) {
    super(reason.code);
    this.name = "Problem";
  }
}
