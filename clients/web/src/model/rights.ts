/** The rights in a token, to show only what may work; the services check them. No I/O. */

/** Whether the `scope` of a JWT has the word. A token without one may not do what needs a right. */
export function mayDo(token: string, right: string): boolean {
  try {
    const claims = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const { scope } = JSON.parse(atob(claims)) as { scope?: unknown };
    return typeof scope === "string" && scope.split(" ").includes(right);
  } catch {
    return false; // another kind of token
  }
}
