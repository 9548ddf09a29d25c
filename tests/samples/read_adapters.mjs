// Reads many adapter files with the package for JavaScript.
//     node read_adapters.mjs < JSON, a list of files in base64
// Prints a JSON list: for each file the bytes of its tensors in base64 with types and dims, or what refused it.
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import { BundleError, readAdapter } from "adapter-export";

const verdicts = JSON.parse(readFileSync(0, "utf8")).map((file) => {
  try {
    const tensors = Object.entries(readAdapter(new Uint8Array(Buffer.from(file, "base64"))));
    const plain = ({ type, dims, data }) => [type, dims, Buffer.from(data.buffer).toString("base64")];
    return { tensors: tensors.map(([name, tensor]) => [name, ...plain(tensor)]) };
  } catch (error) {
    if (!(error instanceof BundleError)) throw error;
    return { refused: error.message };
  }
});
console.log(JSON.stringify(verdicts));
