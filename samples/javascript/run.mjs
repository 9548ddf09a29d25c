// Runs a bundle that was exported with `--bind input` in onnxruntime-node, with each of its adapters and with none.
//
//   npm install onnxruntime-node
//   node run.mjs BUNDLE 101 2023 2003 2307 102
//
// Prints one JSON object: the outputs of the token ids given (one text), by adapter; under "" those without one.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";
import { readAdapter } from "./adapters.mjs";

const [bundle, ...tokens] = process.argv.slice(2);
const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
if (manifest.bind !== "input") throw new Error(`${bundle}: expected a bundle exported with --bind input`);

// The tensors of one of the bundle's adapter files, once its bytes are those that the manifest lists.
function load(file) {
  const bytes = readFileSync(join(bundle, file));
  const digest = createHash("sha256").update(bytes).digest("hex");
  if (digest !== manifest.files[file]) throw new Error(`${file}: not the file that the manifest lists`);
  return Object.fromEntries(
    Object.entries(readAdapter(bytes)).map(([name, { type, dims, data }]) => [name, new ort.Tensor(type, data, dims)]),
  );
}

// Every run is given all tensors: those of no adapter, and in place of some of them the adapter's own.
const none = load("no_adapter.onnx_adapter");
const adapters = { "": none };
for (const { name, file } of manifest.adapters) adapters[name] = { ...none, ...load(file) };

const [graph] = Object.keys(manifest.graphs);
const text = (numbers) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, tokens.length]);
const known = { input_ids: tokens, attention_mask: tokens.map(() => 1), token_type_ids: tokens.map(() => 0) };
const inputs = {};
for (const name of Object.keys(manifest.graphs[graph].inputs)) inputs[name] = text(known[name]);

const session = await ort.InferenceSession.create(join(bundle, graph));
const answers = {};
for (const [name, tensors] of Object.entries(adapters)) {
  const outputs = await session.run({ ...inputs, ...tensors });
  answers[name] = Object.fromEntries(
    Object.entries(outputs).map(([output, { dims, data }]) => [output, { dims, data: Array.from(data) }]),
  );
}
console.log(JSON.stringify(answers));
