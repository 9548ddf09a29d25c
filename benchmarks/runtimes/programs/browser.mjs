// A job (benchmarks/runtimes/jobs.py) in onnxruntime-web, by WebAssembly in headless Chromium.
//     TMPDIR=BROWSER node browser.mjs PACKAGES WEB < JOB
// BROWSER is the folder that Chromium is unpacked in; PACKAGES/node_modules has it, WEB is the package onnxruntime-web.

import { createReadStream, existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { basename, dirname, extname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const [packages, web] = process.argv.slice(2);
const text = readFileSync(0, "utf8");
const { model } = JSON.parse(text);
const data = `${basename(model)}.data`;
const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(join(packages, "node_modules", "/"));
const packed = (await import(pathToFileURL(require.resolve("@sparticuz/chromium")))).default;
const { chromium } = require("playwright-core");

const PAGE = `<!doctype html><title>A job</title><script type="module">
import * as ort from "/web/ort.wasm.min.mjs";
import { answers } from "/sequences.mjs";
ort.env.wasm.wasmPaths = "/web/";
ort.env.wasm.numThreads = 1;
const answer = { version: ort.env.versions.web ?? ort.env.versions.common };
try {
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  if (${existsSync(join(dirname(model), data))}) options.externalData = [{ path: "${data}", data: "/model/${data}" }];
  const job = await (await fetch("/job")).json();
  answer.answers = await answers(ort, job, () => ort.InferenceSession.create("/model/${basename(model)}", options));
} catch (error) {
  answer.refused = String(error.message ?? error);
}
window.answer = answer;
</script>`;
const TYPES = { ".mjs": "text/javascript", ".wasm": "application/wasm" };

const server = createServer((request, response) => {
  const path = decodeURIComponent(request.url);
  const file = {
    "/web": join(web, "dist", basename(path)),
    "/model": join(dirname(model), basename(path)),
    "/": path === "/sequences.mjs" ? join(here, "sequences.mjs") : undefined,
  }[dirname(path)];
  if (path === "/") return response.setHeader("content-type", "text/html").end(PAGE);
  if (path === "/job") return response.setHeader("content-type", "application/json").end(text);
  if (file === undefined || !existsSync(file)) return response.writeHead(404).end();
  response.setHeader("content-type", TYPES[extname(file)] ?? "application/octet-stream");
  createReadStream(file).pipe(response);
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const executable = await packed.executablePath();
const browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox", "--headless=shell"] });
const page = await browser.newPage();
await page.goto(`http://127.0.0.1:${server.address().port}/`);
await page.waitForFunction(() => window.answer, undefined, { timeout: 0 });
console.log(JSON.stringify(await page.evaluate(() => window.answer)));
await browser.close();
server.close();
