// Encodes texts as the page of samples/web does.
//     node encode_texts.mjs ENCODER BUNDLE... < JSON, a list of texts
// ENCODER is the page's src/encoder.js. Prints JSON: for each bundle and text `ids`, `types` and `truncated`.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [encoder, ...bundles] = process.argv.slice(2);
const { TextEncoder } = await import(pathToFileURL(encoder));
const texts = JSON.parse(readFileSync(0, "utf8"));
const read = (...parts) => JSON.parse(readFileSync(parts.join("/"), "utf8"));

const encoded = bundles.map((bundle) => {
  const { longest_text: longestText, graphs } = read(bundle, "manifest.json");
  const manifest = { longestText, inputs: graphs["model.onnx"].inputs };
  const made = new TextEncoder(read(bundle, "tokenizer.json"), read(bundle, "tokenizer_config.json"), manifest);
  return texts.map((text) => {
    const { inputs, truncated } = made.encode(text);
    const numbers = (name) => Array.from(inputs[name].data, Number);
    return { ids: numbers("input_ids"), types: numbers("token_type_ids"), truncated };
  });
});
console.log(JSON.stringify(encoded));
