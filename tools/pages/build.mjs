// Builds what pages load from the sources in meterhouse/api/pages/scripts and the packages of package-lock.json.
// Says what each file weighs, compressed, and fails where a page would weigh more than it may.
import { gzipSync } from "node:zlib";
import { readFileSync, rmSync } from "node:fs";
import { build } from "esbuild";

const PAGES = "meterhouse/api/pages";
const BUILT = `${PAGES}/static/built`;
const MAX_PAGE_BYTES = 400 * 1024; // of what a page with charts loads, compressed

rmSync(BUILT, { recursive: true, force: true });
const common = { bundle: true, minify: true, format: "iife", target: "es2022", outdir: BUILT, legalComments: "eof", logLevel: "warning" };
await build({ ...common, entryPoints: ["pages", "charts"].map((name) => `${PAGES}/scripts/${name}.js`) });

const weigh = (file) => gzipSync(readFileSync(file), { level: 9 }).length;
const loaded = [`${BUILT}/pages.js`, `${BUILT}/charts.js`, `${PAGES}/static/style.css`, `${PAGES}/static/icon.svg`];
for (const file of loaded) console.log(`${file}: ${weigh(file)} bytes compressed`);
const sum = loaded.map(weigh).reduce((a, b) => a + b);
console.log(`a page with charts loads ${sum} of at most ${MAX_PAGE_BYTES} bytes beside its own`);
if (sum > MAX_PAGE_BYTES) process.exitCode = 1;
