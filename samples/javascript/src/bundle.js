import { answer, rowsOf } from "./answers.js";
import { BundleError, shown } from "./errors.js";
import { BundleFiles, readFile } from "./files.js";
import { checkedRows } from "./inputs.js";
import { ADAPTER_IDS, GRAPH, MANIFEST, NO_ADAPTER, NUM_LABELS, readManifest } from "./manifest.js";
import { fetchSource } from "./sources.js";
import { AdapterTensors } from "./tensors.js";

/** @typedef {import("./adapter-file.js").PlainTensor} PlainTensor */
/** @typedef {import("./answers.js").Answer} Answer */
/** @typedef {import("./manifest.js").Manifest} Manifest */
/** @typedef {import("./sources.js").Source} Source */
/** @typedef {string | null} AdapterName null: the base model without an adapter. */
/** @typedef {AdapterName | readonly AdapterName[]} AdapterChoice In mode bank there may be one for each row. */
/** @typedef {import("./inputs.js").Value} Value */
/**
 * What is used of onnxruntime-web, onnxruntime-node or onnxruntime-common.
 *
 * @typedef {object} Ort
 * @property {new (type: any, data: any, dims: readonly number[]) => any} Tensor
 */
/** @typedef {{ run(feeds: any): Promise<Record<string, any>> }} Session An InferenceSession. */
/**
 * @template S
 * @typedef {{ InferenceSession: { create(graph: Uint8Array, options?: any): Promise<S> } }} OrtSessions
 */
/** @typedef {import("./files.js").Watching} Watching */

const WEIGHTS = "model.onnx.data";
const LOGITS = "logits";

/**
 * A bundle: the folder that `adapter-export onnx` writes. One session of ONNX Runtime runs it with any of its adapters.
 *
 *     const bundle = await AdapterBundle.open("bundle/");
 *     const session = await bundle.createSession(ort);
 *     const [answer] = await bundle.classify(ort, session, inputs, "topics");
 *
 * The sha256 of each file is compared with the manifest's when the file is read. Adapters are read on first use and then
 * kept. As in ONNX Runtime for JavaScript itself, a session computes one run at a time: await each.
 */
export class AdapterBundle {
  #files;
  #tensors;

  /**
   * Use `AdapterBundle.open`.
   *
   * @param {Source} source
   * @param {Manifest} manifest
   */
  constructor(source, manifest) {
    /** @readonly */
    this.manifest = manifest;
    this.#files = new BundleFiles(source, manifest.files);
    this.#tensors = new AdapterTensors(this.#files, manifest.tensors);
  }

  /**
   * Reads the manifest.
   *
   * @param {string | URL | Source} source Address of the bundle's folder, or what reads a file of it by its path.
   * @param {{ expectSha256?: string }} [options] expectSha256: hex digest of manifest.json. Take it from a place that
   *   the writer of the bundle cannot change: the manifest lists the digests of all other files.
   * @throws {BundleError} The manifest is missing, broken or another one, or JavaScript cannot run such a bundle.
   */
  static async open(source, { expectSha256 } = {}) {
    const read = typeof source === "function" ? source : fetchSource(source);
    const bytes = await readFile(read, MANIFEST, expectSha256?.toLowerCase());
    return new AdapterBundle(read, readManifest(bytes));
  }

  /** Names of the adapters that a run can have. In a bank they are those of its export; `add` puts none in the graph. */
  get adapters() {
    const { adapters, choice } = this.manifest;
    return adapters.filter(({ slot }) => choice === "input" || slot !== null).map(({ name }) => name);
  }

  /**
   * Class names of the outputs with an adapter; null if they are not classes.
   *
   * @param {AdapterName} [adapter]
   */
  labels(adapter = null) {
    return (adapter === null ? null : this.#adapter(adapter).labels) ?? this.manifest.labels;
  }

  /**
   * What the outputs with an adapter mean, as the manifest states it.
   *
   * @param {AdapterName} [adapter]
   */
  problemType(adapter = null) {
    const own = adapter === null ? null : this.#adapter(adapter);
    return own === null || own.labels === null ? this.manifest.problemType : own.problemType;
  }

  /**
   * A file of the bundle, once its sha256 is that of the manifest.
   *
   * @param {string} path
   * @param {Watching} [options]
   * @returns {Promise<Uint8Array>}
   * @throws {BundleError} The bundle has no such file, it cannot be read, or it has changed.
   */
  read(path, options = {}) {
    return this.#files.read(path, options);
  }

  /**
   * Whether the bundle has a file.
   *
   * @param {string} path
   */
  has(path) {
    return this.#files.has(path);
  }

  /**
   * A file of the bundle with JSON in it.
   *
   * @param {string} path
   */
  readJson(path) {
    return this.#files.readJson(path);
  }

  /**
   * Reads the graph, with weights beside it if there are such, and makes a session of it. onnxruntime-node takes the
   * path of the graph as well, and then reads the weights itself: `ort.InferenceSession.create("bundle/model.onnx")`.
   *
   * @template S
   * @param {OrtSessions<S>} ort
   * @param {Record<string, unknown>} [options] As for `InferenceSession.create`.
   * @param {Watching & { onFile?: (path: string) => void }} [watching] onFile: called as each file begins.
   * @returns {Promise<S>}
   */
  async createSession(ort, options = {}, { onFile, ...watching } = {}) {
    onFile?.(GRAPH);
    const graph = await this.read(GRAPH, watching);
    if (!this.has(WEIGHTS)) return ort.InferenceSession.create(graph, options);
    onFile?.(WEIGHTS);
    const data = await this.read(WEIGHTS, watching);
    return ort.InferenceSession.create(graph, { ...options, externalData: [{ path: WEIGHTS, data }] });
  }

  /**
   * Reads the adapter's file now, so that the first run with it does not wait. In a bank there is nothing to read.
   *
   * @param {AdapterName} adapter
   */
  async load(adapter) {
    await this.feeds(adapter, 1);
  }

  /**
   * Forgets what was read of an adapter's file. The next run with it reads it again.
   *
   * @param {string} adapter
   */
  unload(adapter) {
    this.#tensors.forget(this.#adapter(adapter).file ?? "");
  }

  /**
   * What a run is given besides the inputs of the model, as plain tensors: the values of all adapter tensors, or
   * `adapter_ids` in mode bank.
   *
   * @param {AdapterChoice} adapter
   * @param {number} rows Number of texts of the batch.
   * @returns {Promise<Record<string, PlainTensor>>}
   */
  async feeds(adapter, rows) {
    const chosen = this.#rows(adapter, rows);
    if (this.manifest.choice === "bank") {
      const slots = chosen.map((name) => BigInt(name === null ? 0 : (this.#adapter(name).slot ?? 0)));
      return { [ADAPTER_IDS]: { type: "int64", dims: [rows], data: BigInt64Array.from(slots) } };
    }
    const [name = null] = chosen;
    // Every tensor has a value: that of no adapter, unless the adapter has its own.
    const none = await this.#tensors.of(NO_ADAPTER);
    const own = name === null ? {} : await this.#tensors.of(this.#adapter(name).file ?? "");
    const feeds = { ...none, ...own };
    const missing = Object.keys(this.manifest.tensors).find((tensor) => !Object.hasOwn(feeds, tensor));
    if (missing !== undefined) throw new BundleError(`${NO_ADAPTER}: tensor ${shown(missing)} is missing`);
    return feeds;
  }

  /**
   * Runs the graph on a batch.
   *
   * @param {Ort} ort
   * @param {Session} session A session of this bundle's graph.
   * @param {Record<string, Value>} inputs The model's inputs by name, with their batch axis.
   * @param {AdapterChoice} [adapter]
   * @returns {Promise<Record<string, Value>>} The outputs as the graph has them. In a bank, logits have as many columns
   *   as the adapter with the most labels; `classify` cuts them.
   */
  async run(ort, session, inputs, adapter = null) {
    const rows = checkedRows(inputs, Object.keys(this.manifest.inputs));
    /** @type {Record<string, Value>} */
    const feeds = { ...inputs, ...(await this.feeds(adapter, rows)) };
    const tensors = Object.entries(feeds).map(([name, value]) => [
      name,
      value instanceof ort.Tensor ? value : new ort.Tensor(value.type, value.data, value.dims),
    ]);
    return session.run(Object.fromEntries(tensors));
  }

  /**
   * Runs the graph on a batch, and tells what its logits mean.
   *
   * @param {Ort} ort
   * @param {Session} session
   * @param {Record<string, Value>} inputs
   * @param {AdapterChoice} [adapter]
   * @returns {Promise<Answer[]>} One for each row, with exactly the labels of its adapter.
   * @throws {BundleError} The bundle is for another task, or the base model has no labels of its own.
   */
  async classify(ort, session, inputs, adapter = null) {
    if (this.manifest.task !== "text-classification" || !(LOGITS in this.manifest.outputs))
      throw new BundleError(`${MANIFEST}: expected task text-classification, found ${shown(this.manifest.task)}`);
    const chosen = this.#rows(adapter, checkedRows(inputs, Object.keys(this.manifest.inputs)));
    const labels = chosen.map((name) => {
      const own = this.labels(name);
      if (own === null) throw new BundleError(`adapter ${name}: there are no labels, as the base model has no task head`);
      return own;
    });
    const { [LOGITS]: logits } = await this.run(ort, session, inputs, adapter);
    const rows = rowsOf(logits, chosen.length);
    // A bank pads the rows to the adapter with the most labels.
    const padded = this.manifest.choice === "bank" && this.manifest.outputs[LOGITS]?.shape.at(-1) === NUM_LABELS;
    return rows.map((values, row) => {
      const own = labels[row] ?? [];
      const cut = padded ? values.slice(0, own.length) : values;
      return answer(cut, own, this.problemType(chosen[row]));
    });
  }

  /**
   * @param {string} name
   * @returns {import("./manifest.js").AdapterInfo}
   */
  #adapter(name) {
    const found = this.manifest.adapters.find((info) => info.name === name);
    if (found === undefined)
      throw new BundleError(`adapter ${shown(name)}: not in the bundle (it has: ${this.adapters.join(", ") || "none"})`);
    const { choice } = this.manifest;
    if (choice === "bank" ? found.slot === null : found.file === null)
      throw new BundleError(`adapter ${name}: it has no ${choice === "bank" ? "slot: it is not in the graph" : "file"}`);
    return found;
  }

  /**
   * @param {AdapterChoice} adapter
   * @param {number} rows
   * @returns {readonly AdapterName[]} The adapter of each row.
   */
  #rows(adapter, rows) {
    if (adapter === null || typeof adapter === "string") return Array.from({ length: rows }, () => adapter);
    if (this.manifest.choice !== "bank")
      throw new BundleError("adapters: expected one for all rows, as only a bank has one for each; found several");
    if (adapter.length !== rows)
      throw new BundleError(`adapters: expected ${rows}, one for each row, found ${adapter.length}`);
    return adapter;
  }
}
