/** The client library is declared as it is used, and the page's own scripts hold to what their comments say. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("./", import.meta.url));
const SCRIPTS = fileURLToPath(new URL("../../public/js/", import.meta.url));
const COMPILER = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const STRICT = ["--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", "--lib", "es2023,dom,dom.iterable"];

/** What the compiler has against `files`. */
function complaints(...files) {
  return new Promise((resolve) => {
    execFile(process.execPath, [COMPILER, ...STRICT, ...files], { cwd: HERE, timeout: 120_000 }, (error, out) => resolve(error ? out || String(error) : ""));
  });
}

test("a page that uses the client library as documented is well-typed, and one that does not is told", async () => {
  assert.equal(await complaints("types/usage.ts"), "");
});

test("the page's scripts, the client library among them, are well-typed", async () => {
  const scripts = (await readdir(SCRIPTS)).filter((name) => name.endsWith(".js")).map((name) => SCRIPTS + name);
  assert.equal(await complaints("--allowJs", "--checkJs", ...scripts), "");
});
