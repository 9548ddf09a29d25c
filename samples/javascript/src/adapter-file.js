// Reads .onnx_adapter files: FlatBuffers, little-endian, by ONNX Runtime's schema
// (onnxruntime/lora/adapter_format/adapter_schema.fbs),
//   Adapter: format_version, adapter_version, model_version, parameters;  Parameter: name, dims, data_type, raw_data.
// Files are untrusted: every offset is checked before it is followed, and a file cannot take more memory than its size.

import { BundleError, shown } from "./errors.js";

const IDENTIFIER = "TORT";
const FORMAT_VERSION = 1;
// Numbers of the fields of the two tables.
const FORMAT = 0;
const PARAMETERS = 3;
const [NAME, DIMS, TYPE, DATA] = [0, 1, 2, 3];
const VTABLE_HEADER_BYTES = 4;
const MAX_RANK = 8;

/** What holds the numbers of a type in JavaScript; float16 as bits. Not there: bfloat16, which has no such array. */
const ARRAYS = {
  float32: Float32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float16: Uint16Array,
  float64: Float64Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
};

/** @typedef {keyof typeof ARRAYS} DataType */
/** @typedef {InstanceType<(typeof ARRAYS)[DataType]>} TensorData */
/**
 * A tensor, as `new ort.Tensor(type, data, dims)` takes it. Numbers of float16 are their bits.
 *
 * @typedef {{ type: DataType, dims: readonly number[], data: TensorData }} PlainTensor
 */

/**
 * ONNX's numbers of the types.
 *
 * @type {ReadonlyMap<number, DataType>}
 */
const TYPES = new Map([
  [1, "float32"],
  [2, "uint8"],
  [3, "int8"],
  [4, "uint16"],
  [5, "int16"],
  [6, "int32"],
  [7, "int64"],
  [10, "float16"],
  [11, "float64"],
  [12, "uint32"],
  [13, "uint64"],
]);

/**
 * The tensors of a file by name. They are copies: the file's bytes may be changed afterwards.
 *
 * This checks the form of the file alone. Compare its sha256 with the bundle's manifest before you trust what is in it,
 * as `AdapterBundle` does.
 *
 * @param {Uint8Array} bytes The content of the file.
 * @param {string} [file] Its name, for messages.
 * @returns {Record<string, PlainTensor>}
 * @throws {BundleError} The bytes are not a valid adapter file, or it has a type that JavaScript has no numbers for.
 */
export function readAdapter(bytes, file = ".onnx_adapter file") {
  const buffer = new Buffer(bytes, file);
  if (buffer.text(4, 4) !== IDENTIFIER) buffer.refuse(`no adapter file: the mark ${IDENTIFIER} is missing`);
  const root = buffer.offset(0);
  const version = buffer.number(root, FORMAT);
  if (version !== FORMAT_VERSION) buffer.refuse(`format version ${version}, expected ${FORMAT_VERSION}`);
  /** @type {Map<string, PlainTensor>} */
  const tensors = new Map();
  const [first, count] = buffer.vector(root, PARAMETERS, 4);
  // Tensors that share bytes would make a small file fill the memory.
  let left = bytes.length;
  for (let index = 0; index < count; index++) {
    const { name, tensor, size } = parameter(buffer, buffer.offset(first + 4 * index), left);
    if (tensors.has(name)) buffer.refuse(`tensor ${shown(name)} is there twice`);
    tensors.set(name, tensor);
    left -= size;
  }
  // Names are any text; as an own property "__proto__" is one like others.
  return Object.fromEntries(tensors);
}

/**
 * One tensor.
 *
 * @param {Buffer} buffer
 * @param {number} table Where its table is.
 * @param {number} left How many bytes it may take.
 * @returns {{ name: string, tensor: PlainTensor, size: number }} size: bytes of its name and its numbers.
 */
function parameter(buffer, table, left) {
  const [nameAt, length] = buffer.vector(table, NAME, 1);
  if (length > left) buffer.refuse("tensors overlap");
  const name = buffer.text(nameAt, length);
  if (name === "") buffer.refuse("a tensor has no name");
  const [dimsAt, rank] = buffer.vector(table, DIMS, 8);
  if (rank > MAX_RANK) buffer.refuse(`tensor ${shown(name)}: ${rank} dims, expected at most ${MAX_RANK}`);
  const sizes = Array.from({ length: rank }, (_, axis) => buffer.view.getBigInt64(dimsAt + 8 * axis, true));
  const code = buffer.number(table, TYPE);
  const type = TYPES.get(code);
  if (type === undefined) return buffer.refuse(`tensor ${shown(name)}: data type ${code} is not supported`);
  const Numbers = ARRAYS[type];
  const [dataAt, size] = buffer.vector(table, DATA, 1);
  const expected = sizes.reduce((product, dim) => product * dim, BigInt(Numbers.BYTES_PER_ELEMENT));
  const whole = sizes.every((dim) => dim >= 0n && dim <= BigInt(Number.MAX_SAFE_INTEGER));
  if (!whole || expected !== BigInt(size))
    buffer.refuse(`tensor ${shown(name)}: ${size} bytes do not hold [${sizes}] of ${type}`);
  if (length + size > left) buffer.refuse("tensors overlap");
  // A copy: numbers need not be aligned in the file.
  const { buffer: copy } = buffer.bytes.slice(dataAt, dataAt + size);
  return { name, tensor: { type, dims: sizes.map(Number), data: new Numbers(copy) }, size: length + size };
}

/** The bytes of a file. Whatever is read of it is checked to lie inside. */
class Buffer {
  /**
   * @param {Uint8Array} bytes
   * @param {string} file
   */
  constructor(bytes, file) {
    this.bytes = bytes;
    this.file = file;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /**
   * @param {string} reason
   * @returns {never}
   */
  refuse(reason) {
    throw new BundleError(`${this.file}: ${reason}`);
  }

  /**
   * @param {number} at
   * @param {number} size
   */
  inside(at, size) {
    if (at < 0 || at + size > this.bytes.length) this.refuse(`broken structure: an offset leads outside of the file`);
  }

  /**
   * The place that the unsigned offset stored at `at` points to. It counts from `at`.
   *
   * @param {number} at
   */
  offset(at) {
    this.inside(at, 4);
    return at + this.view.getUint32(at, true);
  }

  /**
   * Where a field of a table is. The table begins with the signed distance back to its vtable, which lists the places.
   *
   * @param {number} table
   * @param {number} index
   * @returns {number | undefined} undefined for a field that the table does not have.
   */
  field(table, index) {
    this.inside(table, 4);
    const vtable = table - this.view.getInt32(table, true);
    this.inside(vtable, 2);
    const entry = VTABLE_HEADER_BYTES + 2 * index;
    if (entry + 2 > this.view.getUint16(vtable, true)) return undefined;
    this.inside(vtable + entry, 2);
    const distance = this.view.getUint16(vtable + entry, true);
    return distance === 0 ? undefined : table + distance;
  }

  /**
   * A field with a number; 0 if the table does not have it.
   *
   * @param {number} table
   * @param {number} index
   */
  number(table, index) {
    const at = this.field(table, index);
    if (at === undefined) return 0;
    this.inside(at, 4);
    return this.view.getInt32(at, true);
  }

  /**
   * A field with a vector.
   *
   * @param {number} table
   * @param {number} index
   * @param {number} itemsize
   * @returns {[at: number, count: number]} Where its items begin, and how many there are.
   */
  vector(table, index, itemsize) {
    const field = this.field(table, index);
    if (field === undefined) return this.refuse("broken structure: a field is missing");
    const at = this.offset(field);
    this.inside(at, 4);
    const count = this.view.getUint32(at, true);
    this.inside(at + 4, count * itemsize);
    return [at + 4, count];
  }

  /**
   * @param {number} at
   * @param {number} length
   */
  text(at, length) {
    this.inside(at, length);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.bytes.subarray(at, at + length));
    } catch {
      return this.refuse("broken structure: a name is not UTF-8");
    }
  }
}
