import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

import { type Plugin, defaultClientConditions, defineConfig } from "vite";

/** Where `npm run dev` finds the rest: the page of a running `make run`. */
const SERVER = process.env.PAGE_SERVER ?? "http://127.0.0.1:8000";

/**
 * The page's own policy, one directive a line, for servers that send none; towpath.tools.page_policy sends the same file
 * as a header. Only what is built has it: Vite's development server puts styles into the page itself.
 * https://www.w3.org/TR/CSP3/
 */
const POLICY = readFileSync(new URL("public/content-security-policy.txt", import.meta.url), "utf8")
  .trim()
  .replaceAll("\n", "; ");

function contentSecurityPolicy(): Plugin {
  return {
    name: "content-security-policy",
    apply: "build",
    transformIndexHtml: () => [
      {
        tag: "meta",
        attrs: { "http-equiv": "Content-Security-Policy", content: POLICY },
        injectTo: "head-prepend",
      },
    ],
  };
}

/** Below it, headers and packets cost more than the file. */
const SMALLEST_COMPRESSED = 500;

/**
 * Puts a `.br` and a `.gz` beside each built text, as small as they get: a build has the time for it, and a request
 * has not. towpath.tools.web serves them; so do nginx (`gzip_static`, `brotli_static`) and Caddy.
 */
function precompressed(): Plugin {
  let folder = "";
  return {
    name: "precompressed",
    apply: "build",
    configResolved: ({ build }) => void (folder = build.outDir),
    closeBundle: () => {
      for (const name of readdirSync(folder, { recursive: true }) as string[]) {
        const path = join(folder, name);
        if (!/\.(js|css|html|svg)$/.test(name) || statSync(path).size < SMALLEST_COMPRESSED) continue;
        const text = readFileSync(path);
        const brotli = { params: { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY } };
        writeFileSync(`${path}.br`, brotliCompressSync(text, brotli));
        writeFileSync(`${path}.gz`, gzipSync(text, { level: 9 }));
      }
    },
  };
}

/** The demo's endpoints refuse what another origin sends, and here the origin is Vite's. */
const proxied = { target: SERVER, changeOrigin: true, headers: { origin: SERVER } };

export default defineConfig({
  base: "./",
  plugins: [contentSecurityPolicy(), precompressed()],
  resolve: { conditions: ["source", ...defaultClientConditions] },
  build: {
    target: "es2023",
    // `light-dark()` and nesting as they are written.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    // A `data:` address would be against the policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/config.json": proxied, "/demo": proxied } },
});
