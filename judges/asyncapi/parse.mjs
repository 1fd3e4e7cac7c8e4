// Parses AsyncAPI documents: node parse.mjs FILE... Prints the errors, operations and messages of each as a JSON array.
import { readFileSync } from "node:fs";

import { Parser } from "@asyncapi/parser";

const ERROR = 0; // DiagnosticSeverity of Spectral, with which the parser reports

const parser = new Parser();
const found = [];
for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await parser.parse(readFileSync(file, "utf8"));
  found.push({
    errors: diagnostics
      .filter((one) => one.severity === ERROR)
      .map((one) => `${one.path.join("/")}: ${one.message}`),
    operations: document?.operations().all().map((one) => one.id()) ?? [],
    messages: document?.components().messages().all().map((one) => one.id()) ?? [],
  });
}
console.log(JSON.stringify(found));
