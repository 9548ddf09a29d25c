// Opens a page in headless Chromium, and prints as JSON what a reader would meet.
//     TMPDIR=BROWSER node look.mjs PACKAGES PAGE.html OUTPUT
// BROWSER is the folder that Chromium is unpacked in, PACKAGES has node_modules, OUTPUT gets screenshots and the PDF.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, file, output] = process.argv.slice(2);
const require = createRequire(join(packages, "node_modules", "/"));
const packed = (await import(pathToFileURL(require.resolve("@sparticuz/chromium")))).default;
const executable = await packed.executablePath();
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core"), "utf8");

const WIDTHS = [390, 820, 1400];
const SCHEMES = ["light", "dark"];
// A4 at 96 pixels an inch, less a centimetre on each side.
const PAPER = 718;

// It is built for machines without a GPU, and draws in software. One process for everything would not survive a crash.
const flags = packed.args.filter((flag) => !["--single-process", "--no-zygote"].includes(flag));
const browser = await chromium.launch({ executablePath: executable, args: flags });
const found = { version: browser.version(), messages: [], requests: [], views: [], focus: [], print: {} };

async function opened(width, scheme) {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: scheme });
  page.on("console", (message) => found.messages.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => found.messages.push(`error: ${error.message}`));
  page.on("request", (request) => found.requests.push(request.url()));
  await page.goto(pathToFileURL(file).href);
  return page;
}

// What of the page is wider than it, and which texts of plots reach out of their plot.
function misfits() {
  const wide = [];
  if (document.documentElement.scrollWidth > window.innerWidth) wide.push("the page");
  for (const element of document.querySelectorAll("h1, h2, h3, h4, p, li, figcaption, figure, caption span, .facts td")) {
    const box = element.getBoundingClientRect();
    if (box.right > window.innerWidth + 1 && !element.closest(".scroll")) wide.push(element.textContent.slice(0, 60));
  }
  for (const text of document.querySelectorAll("svg.plot text")) {
    const [box, plot] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
    const out = Math.max(plot.left - box.left, box.right - plot.right, plot.top - box.top, box.bottom - plot.bottom);
    if (out > 2) wide.push(`${text.textContent} reaches ${out.toFixed(1)} px out of its plot`);
  }
  return wide;
}

for (const scheme of SCHEMES) {
  for (const width of WIDTHS) {
    const page = await opened(width, scheme);
    const view = { scheme, width, misfits: await page.evaluate(misfits) };
    view.background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    // Drawing in software takes seconds a page, so only the light one is drawn as a whole.
    await page.screenshot({ path: join(output, `${scheme}-${width}.png`), fullPage: scheme === "light" });
    if (width === WIDTHS[0]) {
      // Evaluated by the debugger, for which the page's own policy against scripts does not count.
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => window.axe.run({ exclude: ["svg.plot > *"] }));
      view.violations = violations.map((item) => `${item.id}: ${item.nodes.map((node) => node.html).slice(0, 3)}`);
    }
    found.views.push(view);
    await page.close();
  }
}

// Where the key Tab leads, and whether what has the focus shows it.
const page = await opened(WIDTHS[0], "light");
for (;;) {
  await page.keyboard.press("Tab");
  const stop = await page.evaluate(() => {
    const element = document.activeElement;
    if (element === document.body || element.dataset.seen) return null;
    element.dataset.seen = "yes";
    const name = element.getAttribute("aria-label") ?? element.textContent.trim();
    return { tag: element.tagName, name, outline: getComputedStyle(element).outlineStyle };
  });
  if (stop === null) break;
  found.focus.push(stop);
}
const scrolled = await page.evaluate(() =>
  [...document.querySelectorAll("*")]
    .filter((element) => element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX === "auto")
    .map((element) => element.getAttribute("aria-label")),
);
found.scrolled = scrolled;
await page.close();

const printed = await opened(PAPER, "dark");
await printed.emulateMedia({ media: "print", colorScheme: "dark" });
found.print = await printed.evaluate(() => ({
  background: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
}));
found.print.misfits = await printed.evaluate(misfits);
found.print.cut = await printed.evaluate(() =>
  [...document.querySelectorAll(".scroll")]
    .filter((element) => element.scrollWidth > element.clientWidth + 1)
    .map((element) => element.getAttribute("aria-label")),
);
const margin = { top: "1cm", bottom: "1cm", left: "1cm", right: "1cm" };
await printed.pdf({ path: join(output, "page.pdf"), format: "A4", margin });
await browser.close();
console.log(JSON.stringify(found));
