// Uses the page of samples/web in headless Chromium, and prints as JSON what a reader would meet.
//     TMPDIR=BROWSER node look_web.mjs PACKAGES SITE OUTPUT < JSON { texts, looks, gpu }
// BROWSER is the folder that Chromium is unpacked in, PACKAGES has node_modules, SITE has the build and vite, OUTPUT
// gets screenshots.
// looks: whether to look at it at several widths, to use the keyboard, and to take the network away, besides reading
// answers. gpu: whether there is a GPU, which Chromium computes itself.
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, site, output] = process.argv.slice(2);
const { texts, looks, gpu } = JSON.parse(readFileSync(0, "utf8"));
const require = createRequire(join(packages, "node_modules", "/"));
const packed = (await import(pathToFileURL(require.resolve("@sparticuz/chromium")))).default;
const executable = await packed.executablePath();
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core"), "utf8");

const WIDTHS = [390, 820, 1400];
const SCHEMES = ["light", "dark"];

/** The page's server, as `npm run serve` starts it, and its address. */
async function served() {
  const server = spawn(process.execPath, ["node_modules/vite/bin/vite.js", "preview", "--host", "127.0.0.1"], { cwd: site });
  let written = "";
  for await (const chunk of server.stdout) {
    // Colours away.
    written += String(chunk).replace(/\x1b\[[0-9;]*m/g, "");
    const address = written.match(/http:\/\/127\.0\.0\.1:\d+\//);
    if (address) return [server, address[0]];
  }
  throw new Error(`the server does not start: ${written}`);
}

// Not those that the package of Chromium proposes: they take down the walls between pages, and with them threads.
const flags = ["--no-sandbox", "--headless=shell", "--in-process-gpu", "--use-angle=swiftshader"];
if (gpu) flags.push("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--use-vulkan=swiftshader");
const [server, address] = await served();
// Also where something fails.
process.on("exit", () => server.kill());
const browser = await chromium.launch({ executablePath: executable, args: flags });
const context = await browser.newContext({ viewport: { width: WIDTHS[0], height: 900 } });
const found = { messages: [], views: [], loading: [], answers: {}, offline: {}, keyboard: {} };

// What the page tells while it loads.
await context.addInitScript(() => {
  window.told = [];
  new MutationObserver(() => {
    const label = document.querySelector("#loading label");
    const bar = document.querySelector("#progress");
    if (label?.textContent && window.told.at(-1)?.[0] !== label.textContent) window.told.push([label.textContent, bar.value]);
  }).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
});

async function opened() {
  const page = await context.newPage();
  page.on("console", (message) => found.messages.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => found.messages.push(`error: ${error.message}`));
  await page.goto(address);
  await page.locator("#form:not([hidden]), #alert:not(:empty)").first().waitFor();
  return page;
}

/** What is shown, once nothing runs any more. */
async function shown(page) {
  await page.locator("#results[aria-busy=false]").waitFor({ state: "attached" });
  return page.$$eval("#results li", (items) =>
    Object.fromEntries(
      items.map((item) => [item.querySelector(".label").textContent, Number(item.querySelector(".value").dataset.value)]),
    ),
  );
}

/** The answers of each task to each text. */
async function answers(page) {
  const all = {};
  for (const task of await page.locator("#tasks label").allTextContents()) {
    await page.getByRole("radio", { name: task, exact: true }).check();
    all[task] = [];
    for (const text of texts) {
      await page.getByLabel("Text", { exact: true }).fill(text);
      all[task].push(await shown(page));
    }
  }
  return all;
}

const page = await opened();
found.alert = await page.locator("#alert").textContent();
found.loading = await page.evaluate(() => window.told);
found.answers = await answers(page);
found.isolated = await page.evaluate(() => crossOriginIsolated);
found.run = await page.locator("#run").textContent();
found.read = await page.workers()[0].evaluate(() => performance.getEntriesByType("resource").map(({ name }) => name));
await page.locator("#offline:not(:empty)").waitFor();

if (looks) {
  for (const colorScheme of SCHEMES) {
    await page.emulateMedia({ colorScheme });
    for (const width of WIDTHS) {
      await page.setViewportSize({ width, height: 900 });
      await page.screenshot({ path: join(output, `${colorScheme}-${width}.png`) });
      const misfits = await page.evaluate(() =>
        [...document.querySelectorAll("body, body *:not(.hidden)")]
          .filter((element) => element.getBoundingClientRect().right > window.innerWidth + 1)
          .map((element) => element.outerHTML.slice(0, 80)),
      );
      found.views.push({ scheme: colorScheme, width, misfits });
    }
    // Evaluated by the debugger, for which the page's own policy against scripts does not count.
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    found.views.at(-1).violations = violations.map((item) => `${item.id}: ${item.nodes.map((node) => node.html).slice(0, 3)}`);
  }
  // By keyboard alone: to the tasks, to another task, to the text.
  await page.reload();
  await page.locator("#form:not([hidden])").waitFor();
  const focused = () =>
    page.evaluate(() => {
      const element = document.activeElement;
      const outlined = element.matches("input") ? element.nextElementSibling : element;
      return { name: element.labels?.[0]?.textContent, outline: getComputedStyle(outlined).outlineStyle };
    });
  await page.keyboard.press("Tab");
  found.keyboard.stops = [await focused()];
  await page.keyboard.press("ArrowRight");
  found.keyboard.stops.push(await focused());
  await page.keyboard.press("Tab");
  found.keyboard.stops.push(await focused());
  await page.keyboard.type(texts[0]);
  found.keyboard.answer = await shown(page);
  await page.waitForFunction(() => document.querySelector("#status").textContent.includes("%"));
  found.keyboard.told = await page.locator("#status").textContent();

  // A text that is taken away while it is classified.
  found.cleared = await page.evaluate(async () => {
    const text = document.getElementById("text");
    for (const value of ["a text", ""]) {
      text.value = value;
      text.dispatchEvent(new Event("input"));
    }
    const busy = document.getElementById("results").ariaBusy;
    while (document.getElementById("results").ariaBusy !== "false") await new Promise((resolve) => setTimeout(resolve, 10));
    return [busy, document.getElementById("results").childElementCount, document.getElementById("run").textContent];
  });

  // Without a network, and without the server.
  await context.setOffline(true);
  server.kill();
  await new Promise((resolve) => server.once("exit", resolve));
  await page.close();
  const offline = await opened();
  found.offline = await answers(offline);
}
await browser.close();
server.kill();
console.log(JSON.stringify(found));
