// A job (benchmarks/runtimes/jobs.py) in onnxruntime-node.
//
// Tensors of adapters are fed as inputs: RunOptions there have no adapters.

import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";

const NUMBERS = { float32: Float32Array, int64: BigInt64Array };

function decoded(arrays) {
  return Object.fromEntries(
    Object.entries(arrays).map(([name, { type, dims, data }]) => {
      // A copy, as numbers must be aligned.
      const bytes = Uint8Array.from(Buffer.from(data, "base64"));
      return [name, new ort.Tensor(type, new NUMBERS[type](bytes.buffer), dims)];
    }),
  );
}

function encoded({ type, dims, data }, last) {
  if (last) {
    const [rows, positions, width] = dims;
    const kept = new NUMBERS[type](rows * width);
    for (let row = 0; row < rows; row++)
      kept.set(data.subarray(((row + 1) * positions - 1) * width, (row + 1) * positions * width), row * width);
    [dims, data] = [[rows, width], kept];
  }
  return { type, dims, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64") };
}

async function main(job) {
  const session = await ort.InferenceSession.create(job.model, { logSeverityLevel: 3 });
  const answers = [];
  for (const { adapter, steps } of job.sequences) {
    const tensors = decoded(job.adapters[adapter ?? ""]?.tensors ?? {});
    const found = [];
    let outputs = {};
    for (const { feeds, carry } of steps) {
      const carried = Object.fromEntries(Object.entries(carry).map(([input, output]) => [input, outputs[output]]));
      outputs = await session.run({ ...decoded(feeds), ...tensors, ...carried });
      found.push(Object.fromEntries(job.outputs.map((name) => [name, encoded(outputs[name], job.last)])));
    }
    answers.push(found);
  }
  return answers;
}

const answer = { version: ort.env.versions.node ?? ort.env.versions.common };
try {
  answer.answers = await main(JSON.parse(readFileSync(0, "utf8")));
} catch (error) {
  answer.refused = error.message;
}
console.log(JSON.stringify(answer));
