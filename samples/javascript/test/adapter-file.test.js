import assert from "node:assert/strict";
import test from "node:test";
import { BundleError, readAdapter } from "adapter-export";
import { adapterFile, written } from "./files.js";

test("what ONNX Runtime writes", () => {
  assert.deepEqual(readAdapter(written), {
    "a.down": { type: "float32", dims: [2, 3], data: Float32Array.of(0, 0.5, 1, 1.5, 2, 2.5) },
    é: { type: "float16", dims: [2], data: Uint16Array.of(0x3c00, 0xc100) },
    count: { type: "int64", dims: [1], data: BigInt64Array.of(2n ** 40n) },
  });
});

test("bytes that begin inside of a buffer, and are not aligned there", () => {
  const around = new Uint8Array(written.length + 7);
  around.set(written, 3);
  const tensors = readAdapter(around.subarray(3, 3 + written.length));
  assert.deepEqual(tensors, readAdapter(written));
  around.fill(0);
  assert.deepEqual(tensors, readAdapter(written), "the tensors are copies");
});

test("a name that objects have a meaning for is a name", () => {
  const tensors = readAdapter(adapterFile([{ name: "__proto__", dims: [2], data: Uint8Array.of(3, 4) }]));
  assert.deepEqual(Object.keys({ ...tensors }), ["__proto__"]);
});

const one = Uint8Array.of(1, 2, 3, 4);
/** @type {[string, Uint8Array, RegExp][]} */
const REFUSED = [
  ["nothing", new Uint8Array(), /a\.onnx_adapter: broken structure: an offset leads outside of the file/],
  ["another file", new Uint8Array(64), /a\.onnx_adapter: no adapter file: the mark TORT is missing/],
  ["another version", adapterFile([], 2), /format version 2, expected 1/],
  ["no name", adapterFile([{ name: "", dims: [] }]), /a tensor has no name/],
  ["a name twice", adapterFile([{ name: "a", dims: [4], data: one }, { name: "a", dims: [4], data: one }]), /"a" is there twice/],
  ["another size", adapterFile([{ name: "a", dims: [5], data: one }]), /tensor "a": 4 bytes do not hold \[5\] of uint8/],
  ["a negative size", adapterFile([{ name: "a", dims: [-2, -2], data: one }]), /4 bytes do not hold \[-2,-2\]/],
  ["a product beyond 64 bits", adapterFile([{ name: "a", dims: [2n ** 62n, 4], data: one }]), /4 bytes do not hold/],
  ["data beyond the end", adapterFile([{ name: "a", dims: [9999], data: one, size: 9999 }]), /outside of the file/],
  ["a type without numbers", adapterFile([{ name: "a", dims: [2], type: 16, data: one }]), /data type 16 is not supported/],
  ["nine dims", adapterFile([{ name: "a", dims: Array(9).fill(1), data: one }]), /9 dims, expected at most 8/],
  ["control characters", adapterFile([{ name: "a\u001b[2J", dims: [5], data: one }]), /tensor "a\\u001b\[2J"/],
];
for (const [what, bytes, message] of REFUSED)
  test(`refused: ${what}`, () => {
    assert.throws(() => readAdapter(bytes, "a.onnx_adapter"), (error) => error instanceof BundleError && message.test(error.message));
  });

test("tensors that share bytes cannot fill the memory", () => {
  const data = new Uint8Array(256);
  const shared = Array.from({ length: 16 }, (_, index) => ({ name: `t${index}`, dims: [256], data, shared: true }));
  assert.deepEqual(Object.keys(readAdapter(adapterFile(shared.slice(0, 1)))), ["t0"]);
  assert.throws(() => readAdapter(adapterFile(shared)), /tensors overlap/);
});

test("damage gives a BundleError and nothing else", () => {
  let refused = 0;
  const attempt = (/** @type {Uint8Array} */ bytes) => {
    try {
      const size = Object.values(readAdapter(bytes)).reduce((sum, { data }) => sum + data.byteLength, 0);
      assert.ok(size <= bytes.length);
    } catch (error) {
      if (!(error instanceof BundleError)) throw error;
      refused++;
    }
  };
  const last = written.findLastIndex((byte) => byte !== 0);
  for (let length = 0; length <= last; length++) attempt(written.subarray(0, length));
  assert.equal(refused, last + 1, "every truncation is refused");
  for (let at = 0; at < written.length; at++)
    for (const value of [0, 1, 0x7f, 0x80, 0xff]) attempt(written.with(at, value));
  assert.ok(refused > 2 * last);
});
