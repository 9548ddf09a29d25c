// Runs a bundle in onnxruntime-node, with each of its adapters, with none, and in a bank with all of them in one batch.
//     node run_bundle.mjs BUNDLE TOKEN...
// Prints JSON: `outputs` of the graph by adapter ("" for none), `answers` by adapter, `rows` of the batch.
import { AdapterBundle } from "adapter-export";
import { folderSource } from "adapter-export/node";
import ort from "onnxruntime-node";

const [folder, ...tokens] = process.argv.slice(2);
const bundle = await AdapterBundle.open(folderSource(folder));
// From bytes, as in a browser.
const session = await bundle.createSession(ort);
const known = { input_ids: tokens, attention_mask: tokens.map(() => 1), token_type_ids: tokens.map(() => 0) };

/** The text, so many times. */
function batch(rows) {
  const dims = [rows, tokens.length];
  const values = (name) => BigInt64Array.from(Array(rows).fill(known[name]).flat(), BigInt);
  const tensor = (name) => ({ type: "int64", dims, data: values(name) });
  return Object.fromEntries(Object.keys(bundle.manifest.inputs).map((name) => [name, tensor(name)]));
}

const found = { outputs: {}, answers: {}, rows: null };
for (const name of [null, ...bundle.adapters]) {
  const { logits } = await bundle.run(ort, session, batch(1), name);
  found.outputs[name ?? ""] = { dims: logits.dims, data: Array.from(logits.data) };
  if (name !== null) [found.answers[name]] = await bundle.classify(ort, session, batch(1), name);
}
if (bundle.manifest.choice === "bank")
  found.rows = await bundle.classify(ort, session, batch(bundle.adapters.length), bundle.adapters);
console.log(JSON.stringify(found, (_, value) => (value === -Infinity ? "-inf" : value)));
