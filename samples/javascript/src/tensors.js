import { readAdapter } from "./adapter-file.js";
import { BundleError, shown } from "./errors.js";

/** @typedef {import("./adapter-file.js").PlainTensor} PlainTensor */
/** @typedef {import("./manifest.js").TensorInfo} TensorInfo */

/** The tensors of a bundle's adapter files, each file read on first use and then kept. */
export class AdapterTensors {
  #files;
  #wanted;
  /** @type {Map<string, Promise<Record<string, PlainTensor>>>} */
  #kept = new Map();

  /**
   * @param {import("./files.js").BundleFiles} files
   * @param {Record<string, TensorInfo>} wanted The adapter tensors of the graph.
   */
  constructor(files, wanted) {
    this.#files = files;
    this.#wanted = wanted;
  }

  /**
   * The tensors of a file by name. A file that could not be used is read again at the next call.
   *
   * @param {string} path
   * @returns {Promise<Record<string, PlainTensor>>}
   * @throws {BundleError} The file is broken, or has other tensors than the graph.
   */
  of(path) {
    let tensors = this.#kept.get(path);
    if (tensors === undefined) {
      tensors = this.#read(path);
      this.#kept.set(path, tensors);
      tensors.catch(() => this.#kept.delete(path));
    }
    return tensors;
  }

  /** @param {string} path */
  forget(path) {
    this.#kept.delete(path);
  }

  /** @param {string} path */
  async #read(path) {
    const tensors = readAdapter(await this.#files.read(path), path);
    for (const [name, { type, dims }] of Object.entries(tensors)) {
      const wanted = Object.hasOwn(this.#wanted, name) ? this.#wanted[name] : undefined;
      if (wanted === undefined) throw new BundleError(`${path}: tensor ${shown(name)} is none of the graph's`);
      const { dtype, shape } = wanted;
      const free = shape.map((dim, axis) => typeof dim === "string" || dim === dims[axis]);
      if (type !== dtype || dims.length !== shape.length || free.includes(false))
        throw new BundleError(`${path}: tensor ${shown(name)}: expected ${dtype} [${shape}], found ${type} [${dims}]`);
    }
    return tensors;
  }
}
