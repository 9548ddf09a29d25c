// ONNX Runtime for what this browser has: WebGPU, or else WebAssembly. Each is a download of its own, and only one is
// made.

import asyncifyModule from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url";
import asyncifyBinary from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import wasmModule from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasmBinary from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

/** @typedef {"webgpu" | "wasm"} Provider */

const RUNTIMES = {
  webgpu: { load: () => import("onnxruntime-web/webgpu"), mjs: asyncifyModule, wasm: asyncifyBinary },
  wasm: { load: () => import("onnxruntime-web/wasm"), mjs: wasmModule, wasm: wasmBinary },
};

/**
 * What to try, in this order.
 *
 * @param {string | null} asked
 * @returns {Promise<Provider[]>}
 */
export async function providers(asked) {
  if (asked === "wasm") return ["wasm"];
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return adapter ? ["webgpu", "wasm"] : ["wasm"];
}

/** @param {Provider} provider */
export async function runtime(provider) {
  const { load, mjs, wasm } = RUNTIMES[provider];
  const ort = await load();
  // Errors only: the graph of a bundle gives warnings that say nothing to a reader of the page.
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = { mjs: new URL(mjs, import.meta.url).href, wasm: new URL(wasm, import.meta.url).href };
  return ort;
}
