// Adapter files for tests: one that ONNX Runtime wrote, and a writer of others, broken ones included.

/** By ONNX Runtime 1.31: `a.down` float32 [2, 3], `é` float16 [2], `count` int64 [1]. */
export const written = Uint8Array.from(
  atob(
    "CAAAAFRPUlRw////AQAAAAMAAAAHAAAABAAAAAMAAACEAAAARAAAAAQAAACU////LAAAABgAAAAHAAAABAAAAAgAAAAAAAAAAAEAAAEAAAABAAAAAAAAAAAA" +
      "AAAFAAAAY291bnQAAADQ////JAAAABQAAAAKAAAABAAAAAQAAAAAPADBAQAAAAIAAAAAAAAAAgAAAMOpAAAMABQABAAIAAwAEAAMAAAARAAAACgAAAABAAAA" +
      "BAAAABgAAAAAAAAAAAAAPwAAgD8AAMA/AAAAQAAAIEACAAAAAgAAAAAAAAADAAAAAAAAAAAAAAAGAAAAYS5kb3duAAA=",
  ),
  (character) => character.charCodeAt(0),
);

/**
 * The bytes of a file with these tensors. `size` in place of the number of bytes, and `shared` for the same data of
 * several tensors, make files that lie.
 *
 * @param {{ name: string, dims: (number | bigint)[], type?: number, data?: Uint8Array, size?: number, shared?: boolean }[]} tensors
 * @param {number} [version]
 */
export function adapterFile(tensors, version = 1) {
  const view = new DataView(new ArrayBuffer(4096));
  const bytes = new Uint8Array(view.buffer);
  let end = 8;
  const take = (/** @type {number} */ size) => ((end = (end + 7) & ~7), (end += size), end - size);
  const point = (/** @type {number} */ at, /** @type {number} */ to) => view.setUint32(at, to - at, true);
  /** A table of four fields of 4 bytes each; its vtable before it. */
  const table = () => {
    const vtable = take(12);
    [12, 20, 4, 8, 12, 16].forEach((value, index) => view.setUint16(vtable + 2 * index, value, true));
    const at = take(20);
    view.setInt32(at, at - vtable, true);
    return at;
  };
  const vector = (/** @type {Uint8Array} */ content, /** @type {number} */ count) => {
    const at = take(4 + content.length);
    view.setUint32(at, count, true);
    bytes.set(content, at + 4);
    return at;
  };
  bytes.set(new TextEncoder().encode("TORT"), 4);
  const root = table();
  point(0, root);
  view.setInt32(root + 4, version, true);
  const list = vector(new Uint8Array(4 * tensors.length), tensors.length);
  point(root + 16, list);
  /** Offsets lead forward: data of several tensors is behind all of them. @type {number[]} */
  const waiting = [];
  tensors.forEach(({ name, dims, type = 2, data = new Uint8Array(), size = data.length, shared = false }, index) => {
    const at = table();
    point(list + 4 + 4 * index, at);
    const text = new TextEncoder().encode(name);
    point(at + 4, vector(text, text.length));
    point(at + 8, vector(new Uint8Array(BigInt64Array.from(dims, BigInt).buffer), dims.length));
    view.setInt32(at + 12, type, true);
    if (shared) waiting.push(at + 16);
    else point(at + 16, vector(data, size));
  });
  const last = tensors.at(-1);
  if (waiting.length > 0 && last?.data) {
    const at = vector(last.data, last.data.length);
    for (const place of waiting) point(place, at);
  }
  return bytes.slice(0, end);
}
