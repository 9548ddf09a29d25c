// Loads the model once and classifies texts, beside the page, so that typing never waits for a run.

import { AdapterBundle } from "adapter-export";
import { TextEncoder } from "./encoder.js";
import { providers, runtime } from "./runtime.js";

/** What `open` made. @type {{ bundle: AdapterBundle, encoder: TextEncoder, ort: any, session: any }} */
let opened;

/** Messages of the page, by their type. */
const HANDLERS = {
  /** @param {{ address: string, provider: string | null }} message */
  async open({ address, provider }) {
    const bundle = await AdapterBundle.open(address);
    // The base model, as null, if it has labels of its own.
    const names = [null, ...bundle.adapters].filter((name) => bundle.labels(name) !== null);
    if (names.length === 0) throw new Error("the bundle has no adapter with labels");
    const encoder = await TextEncoder.of(bundle);
    // A server that compresses does not say how large a file is, so the build says it.
    let [before, current] = [0, 0];
    const watching = {
      onFile: (file) => ([before, current] = [file === "model.onnx" ? 0 : before + current, 0]),
      onProgress: (loaded) => {
        current = loaded;
        postMessage({ type: "progress", loaded: before + loaded, total: MODEL_BYTES });
      },
    };
    const [used, ort, session] = await started(await providers(provider), (ort, options) =>
      bundle.createSession(ort, options, watching),
    );
    opened = { bundle, encoder, ort, session };
    postMessage({ type: "ready", names, provider: used });
    // The other adapters are small. Once they are here, too, nothing needs the network any more.
    for (const name of names) await bundle.load(name);
    const addresses = performance.getEntriesByType("resource").map(({ name: address }) => address);
    postMessage({ type: "complete", addresses });
  },

  /** @param {{ text: string, adapter: string | null }} message */
  async classify({ text, adapter }) {
    const { bundle, encoder, ort, session } = opened;
    const { inputs, tokens, truncated } = encoder.encode(text);
    const start = performance.now();
    const [answer] = await bundle.classify(ort, session, inputs, adapter);
    postMessage({ type: "answer", answer, tokens, truncated, milliseconds: performance.now() - start });
  },
};

/** The first of the providers that makes a session. */
async function started([provider, ...others], create) {
  try {
    const ort = await runtime(provider);
    return [provider, ort, await create(ort, { executionProviders: [provider], logSeverityLevel: 3 })];
  } catch (error) {
    if (others.length === 0) throw error;
    return started(others, create);
  }
}

addEventListener("message", async ({ data }) => {
  try {
    await HANDLERS[data.type](data);
  } catch (error) {
    postMessage({ type: "error", message: error.message });
  }
});
