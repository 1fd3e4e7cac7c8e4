/** The package as others get it: its size, and that it works outside of this repository. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const TSC = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin", "tsc");
const QUIETLY = { encoding: "utf8", timeout: 60_000, stdio: "pipe" } as const;
const LARGEST = 11 * 1024;

/** The bundlers' output: the file that a page loads at once, and the one that it loads on demand. */
const bundled = await build({
  entryPoints: [join(HERE, "src/index.ts")],
  bundle: true,
  minify: true,
  splitting: true,
  format: "esm",
  platform: "browser", // fails on anything of Node's
  target: "es2022",
  outdir: "bundled",
  write: false,
});
const files = bundled.outputFiles.map(({ path, contents }) => ({ name: basename(path), contents }));

test("a page loads less than 11 KiB of it, minified and compressed, and a little more with a storage", (t) => {
  const size = Object.fromEntries(files.map(({ name, contents }) => [name, gzipSync(contents, { level: 9 }).length]));
  const names = Object.keys(size).map((name) => name.replace(/-\w+/, ""));
  assert.deepEqual(names.sort(), ["index.js", "saving.js"], "nothing else is loaded with either");
  for (const [name, bytes] of Object.entries(size)) t.diagnostic(`${name}: ${bytes} bytes`);
  assert.ok(size["index.js"]! < LARGEST, `${size["index.js"]} bytes`);
});

const PROGRAM = `
import { TowpathError, connect } from "@towpath/client";
import { fileStorage } from "@towpath/client/node";

class WebSocket {
  readyState = 1;
  constructor() {
    setTimeout(() => this.says({ action: "session.welcome", data: { user_id: "ana" } }));
  }
  says(envelope) {
    this.onmessage({ data: JSON.stringify({ msg_id: "1", timestamp: 0, version: "1.0", ...envelope }) });
  }
  send(text) {
    const { action, msg_id } = JSON.parse(text);
    this.says({ action: action + ".ok", data: { seq: 3 }, correlation_id: msg_id });
  }
  close() {}
}

const storage = fileStorage("positions.json");
const client = connect({ url: "ws://localhost/ws", token: () => "t", WebSocket, storage });
const { user_id } = await client.opened();
const { seq } = await client.request("chat.join", { room: "lobby" }, { stream: "chat:lobby" });
await client.close();
const failed = await client.request("chat.rooms").catch((error) => error instanceof TowpathError);
console.log(JSON.stringify([user_id, seq, await storage.load(), failed]));
`;

const WITHOUT_SAVING = PROGRAM.replace("@towpath/client/node", "./node_modules/@towpath/client/dist/node.js")
  .replace("@towpath/client", "./index.js")
  .replace("await client.opened()", "(client.onError(({ code }) => console.log(code)), await client.opened())");

const TYPED = `
import { connect, type Client, type TowpathError } from "@towpath/client";
import { fileStorage } from "@towpath/client/node";

declare module "@towpath/client" {
  interface Actions {
    "delivery.estimate": { data: { postcode: string }; answer: { days: number } };
  }
}

const client: Client = connect({ url: "ws://localhost/ws", token: async () => "t", storage: fileStorage("x") });
client.on("chat.message", ({ text }) => text.length);
client.on("state", (state, error?: TowpathError) => [state, error]);
const answer = await client.request("delivery.estimate", { postcode: "1000" });
export const days: number = answer.days;
// @ts-expect-error: misspelt
client.request("delivery.estimate", { postcod: "1000" });
`;

describe("the package", () => {
  const folder = mkdtempSync(join(tmpdir(), "towpath-package-"));
  const run = (program: string, ...parameters: string[]) =>
    execFileSync(program, parameters, { ...QUIETLY, cwd: folder });

  before(() => {
    const packing = ["pack", "--json", "--silent", "--pack-destination", folder];
    const packed = execFileSync("npm", packing, { ...QUIETLY, cwd: HERE });
    const [{ filename }] = JSON.parse(packed.slice(packed.indexOf("[")));
    writeFileSync(join(folder, "package.json"), '{"type": "module", "private": true}');
    run("npm", "install", "--offline", "--no-audit", "--no-fund", `./${filename}`);
  });
  after(() => rmSync(folder, { recursive: true }));

  test("runs where it is installed", () => {
    writeFileSync(join(folder, "program.js"), PROGRAM);
    assert.deepEqual(JSON.parse(run(process.execPath, "program.js")), ["ana", 3, { "chat:lobby": 3 }, true]);
  });

  test("goes on without its storage where the part for it cannot be loaded", () => {
    const { contents } = files.find(({ name }) => name === "index.js")!;
    writeFileSync(join(folder, "index.js"), contents);
    writeFileSync(join(folder, "page.js"), WITHOUT_SAVING);
    rmSync(join(folder, "positions.json"), { force: true });
    const told = run(process.execPath, "page.js").trim().split("\n");
    assert.deepEqual(told, ["bad_storage", JSON.stringify(["ana", 3, null, true])]);
  });

  test("has types that a strict project takes, and can add its own actions to", () => {
    writeFileSync(join(folder, "typed.ts"), TYPED);
    const flags = "--noEmit --strict --skipLibCheck false --module nodenext --target es2022 --types".split(" ");
    assert.equal(run(process.execPath, TSC, ...flags, "", "typed.ts"), "");
  });

  test("depends on nothing, and holds no tests", () => {
    const listed = run("npm", "ls", "--all", "--parseable").trim().split("\n");
    assert.equal(listed.length, 2, "the project and the client");
    assert.throws(() => run("ls", "node_modules/@towpath/client/test"));
  });
});
