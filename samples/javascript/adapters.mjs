// Reads .onnx_adapter files: FlatBuffers by ONNX Runtime's schema (onnxruntime/lora/adapter_format/adapter_schema.fbs),
//   Adapter: format_version, adapter_version, model_version, parameters;  Parameter: name, dims, data_type, raw_data.
// No dependencies; for onnxruntime-node and onnxruntime-web alike. Check the file's sha256 against the bundle's
// manifest.json before you trust what is in it.

const PARAMETERS = 3;
const [NAME, DIMS, TYPE, DATA] = [0, 1, 2, 3];
// ONNX's numbers of data types: the runtime's name, and what holds the numbers.
const TYPES = { 1: ["float32", Float32Array], 10: ["float16", Uint16Array], 7: ["int64", BigInt64Array] };

/** Tensors by name, of a file's bytes (Uint8Array): { name: { type, dims, data } }, as `new ort.Tensor` takes them. */
export function readAdapter(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (String.fromCharCode(...bytes.subarray(4, 8)) !== "TORT") throw new Error("no .onnx_adapter file");
  const follow = (at) => at + view.getUint32(at, true);
  const field = (table, index) => {
    const vtable = table - view.getInt32(table, true);
    const entry = 4 + 2 * index;
    const distance = entry < view.getUint16(vtable, true) ? view.getUint16(vtable + entry, true) : 0;
    if (distance === 0) throw new Error(`broken .onnx_adapter file: field ${index} is missing`);
    return table + distance;
  };
  // Where a vector's items begin, and how many there are.
  const vector = (table, index) => {
    const at = follow(field(table, index));
    return [at + 4, view.getUint32(at, true)];
  };

  const tensors = {};
  const [first, count] = vector(follow(0), PARAMETERS);
  for (let number = 0; number < count; number++) {
    const table = follow(first + 4 * number);
    const [nameAt, length] = vector(table, NAME);
    const name = new TextDecoder().decode(bytes.subarray(nameAt, nameAt + length));
    const [dimsAt, rank] = vector(table, DIMS);
    const dims = Array.from({ length: rank }, (_, axis) => Number(view.getBigInt64(dimsAt + 8 * axis, true)));
    const code = view.getInt32(field(table, TYPE), true);
    if (!(code in TYPES)) throw new Error(`tensor ${name}: data type ${code} is not supported`);
    const [type, Numbers] = TYPES[code];
    const [dataAt, size] = vector(table, DATA);
    if (size !== dims.reduce((product, dim) => product * dim, Numbers.BYTES_PER_ELEMENT))
      throw new Error(`tensor ${name}: ${size} bytes do not hold ${dims}`);
    // A copy: numbers need not be aligned in the file.
    const start = bytes.byteOffset + dataAt;
    tensors[name] = { type, dims, data: new Numbers(bytes.buffer.slice(start, start + size)) };
  }
  return tensors;
}
