// The runs of a job (benchmarks/runtimes/jobs.py) in an ONNX Runtime for JavaScript, in Node or in a browser.
//
// Tensors of adapters are fed as inputs: RunOptions there have no adapters.

const NUMBERS = { float32: Float32Array, int64: BigInt64Array };

function decoded(ort, arrays) {
  return Object.fromEntries(
    Object.entries(arrays).map(([name, { type, dims, data }]) => {
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
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
  let text = "";
  for (const byte of new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) text += String.fromCharCode(byte);
  return { type, dims, data: btoa(text) };
}

/** The answers of a job. `open` makes its session. */
export async function answers(ort, job, open) {
  const session = await open();
  const all = [];
  for (const { adapter, steps } of job.sequences) {
    const tensors = decoded(ort, job.adapters[adapter ?? ""]?.tensors ?? {});
    const found = [];
    let outputs = {};
    for (const { feeds, carry } of steps) {
      const carried = Object.fromEntries(Object.entries(carry).map(([input, output]) => [input, outputs[output]]));
      outputs = await session.run({ ...decoded(ort, feeds), ...tensors, ...carried });
      found.push(Object.fromEntries(job.outputs.map((name) => [name, encoded(outputs[name], job.last)])));
    }
    all.push(found);
  }
  return all;
}
