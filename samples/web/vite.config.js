import { resolve } from "node:path";
import { defineConfig } from "vite";
import { bundled } from "./build/bundled.js";
import { offline } from "./build/offline.js";

// BUNDLE counts from the folder that npm was called in.
const bundle = process.env.BUNDLE && resolve(process.env.INIT_CWD ?? ".", process.env.BUNDLE);
// With these headers a browser lets WebAssembly use several threads. Without them it uses one.
const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

export default defineConfig({
  // Addresses in the pages are relative, so that a site works in any folder of a server.
  base: "./",
  build: { target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 1000, modulePreload: { polyfill: false } },
  // WebAssembly as files of their own, which the page names; see src/runtime.js.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser"] },
  worker: { format: "es" },
  preview: { headers, port: 4173, strictPort: false },
  plugins: [bundled(bundle), offline(bundle)],
});
