import "./style.css";
import { show, showLabels } from "./results.js";

const element = (id) => document.getElementById(id);
const [text, tasks, progress, status, alert] = ["text", "tasks", "progress", "status", "alert"].map(element);
const [results, run] = [element("results"), element("run")];
// How long a text must rest before a screen reader is told what became of it.
const REST_MILLISECONDS = 1000;
// How long to wait for the service worker.
const KEPT_MILLISECONDS = 4000;
// How often and how long to look whether what was read has been kept.
const LOOK_MILLISECONDS = 200;
const LOOKS = 300;

let worker;
let runtime;
/** The adapter that is chosen; undefined until there is a choice. @type {string | null | undefined} */
let adapter;
let busy = false;
let again = false;
let resting;

/** Classifies the text as it is now. While a run is on, only that another one is needed is noted. */
function classify() {
  if (adapter === undefined) return;
  again = busy;
  if (busy) return;
  busy = text.value.trim() !== "";
  results.ariaBusy = String(busy);
  if (!busy) {
    showLabels([]);
    run.textContent = "";
    clearTimeout(resting);
    return;
  }
  worker.postMessage({ type: "classify", text: text.value, adapter });
}

/** A run has ended. Last of what is done then, because the text may be empty by now, and what was shown goes. */
function finished() {
  busy = false;
  results.ariaBusy = "false";
  if (again) classify();
}

/** A button for each task, the first one chosen. @param {(string | null)[]} names */
function showTasks(names) {
  for (const [index, name] of names.entries()) {
    const label = document.createElement("label");
    const button = Object.assign(document.createElement("input"), { type: "radio", name: "task", value: String(index) });
    button.checked = index === 0;
    button.addEventListener("change", () => {
      adapter = name;
      classify();
    });
    const shown = document.createElement("span");
    shown.textContent = name ?? "base model";
    label.append(button, shown);
    tasks.append(label);
  }
  [adapter] = names;
}

const HANDLERS = {
  progress({ loaded, total }) {
    const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
    const label = element("loading").firstElementChild;
    if (loaded < total) {
      label.textContent = `Loading the model: ${megabytes(loaded)} of ${megabytes(total)}`;
      progress.value = loaded / total;
    } else {
      label.textContent = "Starting the model";
      progress.removeAttribute("value");
    }
  },
  ready({ names, provider }) {
    element("loading").hidden = true;
    runtime = provider === "webgpu" ? "WebGPU" : "WebAssembly";
    showTasks(names);
    element("form").hidden = false;
    status.textContent = "The model is ready.";
    classify();
  },
  async complete({ addresses }) {
    if (await areKept(addresses)) element("offline").textContent = "This page now works without a network.";
  },
  answer({ answer, tokens, truncated, milliseconds }) {
    const summary = show(answer);
    alert.textContent = "";
    const cut = truncated ? " (the text is cut there, as the model takes no more)" : "";
    run.textContent = `${runtime}: ${tokens} tokens${cut}, ${milliseconds.toFixed(0)} ms`;
    clearTimeout(resting);
    resting = setTimeout(() => (status.textContent = summary), REST_MILLISECONDS);
    finished();
  },
  error({ message }) {
    element("loading").hidden = true;
    alert.textContent = `It does not work: ${message}`;
    finished();
  },
};

/**
 * Registers the service worker, and waits until it keeps what the page reads from now on. Without it (a private window of
 * some browsers, a reload that goes around it) the page works all the same, with a network.
 */
async function kept() {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register(new URL("service-worker.js", document.baseURI));
  if (navigator.serviceWorker.controller) return;
  await new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
}

/** Whether the service worker has kept all these files; there may be no room for them. @param {string[]} addresses */
async function areKept(addresses) {
  if (!navigator.serviceWorker?.controller) return false;
  for (let look = 0; look < LOOKS; look++) {
    const found = await Promise.all(addresses.map((address) => caches.match(address, { ignoreVary: true })));
    if (found.every(Boolean)) return true;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MILLISECONDS));
  }
  return false;
}

text.addEventListener("input", classify);
element("form").addEventListener("submit", (event) => event.preventDefault());
const patience = new Promise((resolve) => setTimeout(resolve, KEPT_MILLISECONDS));
await Promise.race([kept().catch((error) => console.warn(error)), patience]);
worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
worker.addEventListener("message", ({ data }) => HANDLERS[data.type](data));
worker.addEventListener("error", (event) => HANDLERS.error({ message: event.message || "the worker does not start" }));
const provider = new URLSearchParams(location.search).get("provider");
worker.postMessage({ type: "open", address: new URL("bundle/", document.baseURI).href, provider });
