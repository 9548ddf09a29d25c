// Runs a bundle in onnxruntime-node, with each of its adapters.
//
//   npm install onnxruntime-node adapter-export
//   node run.mjs BUNDLE 101 2023 2003 2307 102
//
// Prints one JSON object: what the adapters answer to one text, given as token ids, by the names of the adapters.

import { join } from "node:path";
import { AdapterBundle } from "adapter-export";
import { folderSource } from "adapter-export/node";
import ort from "onnxruntime-node";

const [folder, ...tokens] = process.argv.slice(2);
const bundle = await AdapterBundle.open(folderSource(folder));
const session = await ort.InferenceSession.create(join(folder, "model.onnx"));

const known = { input_ids: tokens, attention_mask: tokens.map(() => 1), token_type_ids: tokens.map(() => 0) };
const inputs = {};
for (const name of Object.keys(bundle.manifest.inputs))
  inputs[name] = new ort.Tensor("int64", BigInt64Array.from(known[name], BigInt), [1, tokens.length]);

const answers = {};
for (const adapter of bundle.adapters) [answers[adapter]] = await bundle.classify(ort, session, inputs, adapter);
console.log(JSON.stringify(answers));
