import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import test from "node:test";
import { AdapterBundle, BundleError } from "adapter-export";
import { adapterFile } from "./files.js";

const sha256 = (/** @type {Uint8Array} */ bytes) => createHash("sha256").update(bytes).digest("hex");
const bytesOf = (/** @type {unknown} */ value) => new TextEncoder().encode(JSON.stringify(value));

/** `bias` [2] of no adapter and of `topics`; `head` [labels] of both. */
const FILES = {
  "model.onnx": Uint8Array.of(1),
  "no_adapter.onnx_adapter": adapterFile([
    { name: "bias", dims: [2], data: Uint8Array.of(0, 0) },
    { name: "head", dims: [2], data: Uint8Array.of(5, 6) },
  ]),
  "adapters/topics.onnx_adapter": adapterFile([{ name: "head", dims: [3], data: Uint8Array.of(7, 8, 9) }]),
};
const int64 = { dtype: "int64", shape: ["batch", "sequence"] };

/** @param {Record<string, unknown>} [changes] */
function manifest(changes = {}) {
  return {
    format_version: 2,
    mode: "swappable",
    bind: "input",
    task: "text-classification",
    graphs: {
      "model.onnx": {
        inputs: { input_ids: int64 },
        outputs: { logits: { dtype: "float32", shape: ["batch", "num_labels"] } },
      },
    },
    sites: [
      { tensors: { bias: { dtype: "uint8", shape: [2] } } },
      { tensors: { head: { dtype: "uint8", shape: ["num_labels"] } } },
    ],
    adapters: [{ name: "topics", method: "ia3", labels: ["a", "b", "c"], slot: 2, file: "adapters/topics.onnx_adapter" }],
    files: Object.fromEntries(Object.entries(FILES).map(([path, bytes]) => [path, sha256(bytes)])),
    labels: ["no", "yes"],
    problem_type: "multi_label_classification",
    ...changes,
  };
}

/**
 * @param {Record<string, unknown>} [changes] Of the manifest.
 * @param {Record<string, Uint8Array>} [files] In place of others.
 */
function open(changes = {}, files = {}) {
  /** @type {string[]} */
  const read = [];
  /** @type {Record<string, Uint8Array>} */
  const all = { ...FILES, "manifest.json": bytesOf(manifest(changes)), ...files };
  const source = async (/** @type {string} */ path) => {
    read.push(path);
    return all[path] ?? assert.fail(path);
  };
  return AdapterBundle.open(source).then((bundle) => ({ bundle, read }));
}

class Tensor {
  /** @param {string} type @param {any} data @param {readonly number[]} dims */
  constructor(type, data, dims) {
    Object.assign(this, { type, data, dims });
  }
}
/** Answers as a graph would: the head as logits, or four columns in a bank. Keeps what it was given. */
class Session {
  /** @param {any} feeds */
  async run(feeds) {
    this.given = feeds;
    const rows = feeds.input_ids.dims[0];
    const row = feeds.adapter_ids ? [1, 2, 3, -Infinity] : [...feeds.head.data];
    return { logits: new Tensor("float32", Float32Array.from(Array(rows).fill(row).flat()), [rows, row.length]) };
  }
}
const ort = { Tensor };
const inputs = (rows = 1) => ({ input_ids: { type: "int64", dims: [rows, 1], data: new BigInt64Array(rows) } });

test("what a bundle has", async () => {
  const { bundle } = await open();
  assert.deepEqual(bundle.adapters, ["topics"]);
  assert.deepEqual([bundle.labels("topics"), bundle.labels()], [["a", "b", "c"], ["no", "yes"]]);
  assert.deepEqual([bundle.problemType("topics"), bundle.problemType()], [null, "multi_label_classification"]);
  assert.throws(() => bundle.labels("news"), /adapter "news": not in the bundle \(it has: topics\)/);
});

test("an adapter without a task head has the labels of the base model, and their meaning", async () => {
  const { bundle } = await open({ adapters: [{ ...manifest().adapters[0], labels: null, problem_type: "regression" }] });
  assert.deepEqual(bundle.labels("topics"), ["no", "yes"]);
  assert.equal(bundle.problemType("topics"), "multi_label_classification");
});

test("an adapter's tensors take the place of those of no adapter, and files are read once", async () => {
  const { bundle, read } = await open();
  const feeds = await bundle.feeds("topics", 1);
  assert.deepEqual([feeds.bias?.data, feeds.head?.data], [Uint8Array.of(0, 0), Uint8Array.of(7, 8, 9)]);
  assert.deepEqual((await bundle.feeds(null, 1)).head?.data, Uint8Array.of(5, 6));
  await bundle.load("topics");
  assert.deepEqual(read, ["manifest.json", "no_adapter.onnx_adapter", "adapters/topics.onnx_adapter"]);
  bundle.unload("topics");
  await bundle.load("topics");
  assert.equal(read.length, 4);
});

test("answers have the labels of their adapter", async () => {
  const { bundle } = await open();
  const session = new Session();
  const [topics] = await bundle.classify(ort, session, inputs(), "topics");
  assert.deepEqual([topics?.labels, topics?.logits], [["a", "b", "c"], [7, 8, 9]]);
  const [base] = await bundle.classify(ort, session, inputs());
  assert.deepEqual([base?.labels, base?.logits], [["no", "yes"], [5, 6]]);
  assert.equal(base?.problemType, "multi_label_classification");
});

test("a bank: a slot for each row, and columns beyond its labels cut off", async () => {
  const { bundle } = await open({ mode: "bank", bind: "initializer" });
  const session = new Session();
  const answers = await bundle.classify(ort, session, inputs(3), ["topics", null, "topics"]);
  assert.deepEqual(session.given.adapter_ids, new Tensor("int64", BigInt64Array.of(2n, 0n, 2n), [3]));
  assert.deepEqual(answers.map(({ logits }) => logits), [[1, 2, 3], [1, 2], [1, 2, 3]]);
  await assert.rejects(bundle.classify(ort, session, inputs(2), ["topics"]), /adapters: expected 2, one for each row, found 1/);
});

test("a bank has the adapters of its export", async () => {
  const { bundle } = await open({ mode: "bank", adapters: [{ ...manifest().adapters[0], slot: null }] });
  assert.deepEqual(bundle.adapters, []);
  await assert.rejects(bundle.feeds("topics", 1), /adapter topics: it has no slot: it is not in the graph/);
});

test("calls that do not fit", async () => {
  const { bundle } = await open({ labels: null });
  const session = new Session();
  await assert.rejects(bundle.classify(ort, session, inputs()), /there are no labels, as the base model has no task head/);
  await assert.rejects(bundle.run(ort, session, {}), /inputs: expected input_ids, found none/);
  await assert.rejects(bundle.feeds([null, "topics"], 2), /expected one for all rows, as only a bank has one for each/);
  const features = await open({ task: "features" });
  await assert.rejects(features.bundle.classify(ort, session, inputs()), /expected task text-classification, found "features"/);
});

test("a changed file is refused, and read again at the next call", async () => {
  const path = "adapters/topics.onnx_adapter";
  /** @type {Record<string, Uint8Array>} */
  const files = { [path]: Uint8Array.of(0) };
  const all = { ...FILES, "manifest.json": bytesOf(manifest()) };
  const bundle = await AdapterBundle.open(async (name) => files[name] ?? all[/** @type {"model.onnx"} */ (name)]);
  await assert.rejects(bundle.load("topics"), /topics\.onnx_adapter: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}: it has changed/);
  delete files[path];
  await bundle.load("topics");
});

test("a pinned manifest", async () => {
  const bytes = bytesOf(manifest());
  const expectSha256 = sha256(bytes);
  await AdapterBundle.open(async () => bytes, { expectSha256 });
  await assert.rejects(AdapterBundle.open(async () => bytesOf({}), { expectSha256 }), /manifest\.json: expected sha256/);
});

test("an adapter file with other tensors than the graph", async () => {
  const path = "adapters/topics.onnx_adapter";
  for (const [tensor, message] of /** @type {const} */ ([
    [{ name: "other", dims: [1], data: Uint8Array.of(1) }, /tensor "other" is none of the graph's/],
    [{ name: "bias", dims: [3], data: Uint8Array.of(1, 2, 3) }, /"bias": expected uint8 \[2\], found uint8 \[3\]/],
    [{ name: "bias", dims: [2], type: 3, data: Uint8Array.of(1, 2) }, /"bias": expected uint8 \[2\], found int8 \[2\]/],
  ])) {
    const bytes = adapterFile([{ ...tensor, dims: [...tensor.dims] }]);
    const { bundle } = await open({ files: { ...manifest().files, [path]: sha256(bytes) } }, { [path]: bytes });
    await assert.rejects(bundle.load("topics"), message);
  }
  const empty = adapterFile([]);
  const files = { ...manifest().files, "no_adapter.onnx_adapter": sha256(empty) };
  const { bundle } = await open({ files }, { "no_adapter.onnx_adapter": empty });
  await assert.rejects(bundle.load("topics"), /no_adapter\.onnx_adapter: tensor "bias" is missing/);
});

/** @type {[string, Record<string, unknown>, RegExp][]} */
const BROKEN = [
  ["format", { format_version: 3 }, /field 'format_version': expected 2, found 3/],
  ["mode", { mode: "merged" }, /expected mode bank, or mode swappable with '--bind input', found mode merged/],
  ["binding", { bind: "initializer" }, /found mode swappable with '--bind initializer'/],
  ["path up", { files: { "../x": "0".repeat(64) } }, /path "\.\.\/x": expected a path inside the bundle/],
  ["path from the root", { files: { "/x": "0".repeat(64) } }, /expected a path inside the bundle/],
  ["address", { files: { "https://x": "0".repeat(64) } }, /expected a path inside the bundle/],
  ["digest", { files: { x: "0" } }, /field 'files\.x': expected a sha256, found "0"/],
  ["graphs", { graphs: {} }, /field 'graphs\.model\.onnx': expected an object, found undefined/],
  ["labels", { labels: [1] }, /field 'labels\[0\]': expected a text, found 1/],
  ["problem type", { problem_type: "x" }, /field 'problem_type': expected one of single_label_classification, .*, found "x"/],
  ["name", { adapters: [{ name: "../x" }] }, /field 'adapters\[0\]\.name': expected the name of an adapter, found "\.\.\/x"/],
  ["file", { adapters: [{ name: "a", file: "model.onnx" }] }, /field 'adapters\[0\]\.file': expected 'adapters\/a\.onnx_adapter'/],
  ["slot", { adapters: [{ ...manifest().adapters[0], slot: -1 }] }, /expected a whole number of at least 0, found -1/],
  ["twice", { adapters: [manifest().adapters[0], manifest().adapters[0]] }, /field 'adapters': a name is there twice/],
  ["sites", { sites: [{ tensors: { a: { dtype: "uint8", shape: [1.5] } } }] }, /field 'sites\[0\]\.tensors\.a\.shape\[0\]'/],
];
for (const [what, changes, message] of BROKEN)
  test(`a broken manifest: ${what}`, async () => {
    await assert.rejects(open(changes), (error) => error instanceof BundleError && message.test(error.message));
  });

test("no JSON", async () => {
  await assert.rejects(AdapterBundle.open(async () => Uint8Array.of(0x7b)), /manifest\.json: expected JSON: /);
  await assert.rejects(AdapterBundle.open(async () => bytesOf([])), /manifest\.json: field '': expected an object, found \[\]/);
});

test("a replaced adapter has its digest in the name of its file", async () => {
  const file = "adapters/topics@0123456789ab.onnx_adapter";
  const { bundle } = await open({ adapters: [{ ...manifest().adapters[0], file }] });
  assert.equal(bundle.manifest.adapters[0]?.file, file);
});

test("sessions are made of the bytes of the graph, and of weights beside it", async () => {
  const created = { InferenceSession: { create: async (/** @type {unknown[]} */ ...given) => given } };
  /** @type {string[]} */
  const begun = [];
  const { bundle } = await open();
  assert.deepEqual(await bundle.createSession(created, { x: 1 }), [FILES["model.onnx"], { x: 1 }]);
  const data = Uint8Array.of(4);
  const files = { ...manifest().files, "model.onnx.data": sha256(data) };
  const large = await open({ files }, { "model.onnx.data": data });
  const given = await large.bundle.createSession(created, {}, { onFile: (path) => begun.push(path) });
  assert.deepEqual(given, [FILES["model.onnx"], { externalData: [{ path: "model.onnx.data", data }] }]);
  assert.deepEqual(begun, ["model.onnx", "model.onnx.data"]);
  await assert.rejects(bundle.read("secret"), /manifest\.json: expected "secret" among the files, found none/);
});
