import { BundleError, shown } from "./errors.js";
import { readJson } from "./fields.js";
import { MANIFEST } from "./manifest.js";
import { sha256 } from "./sha256.js";

/** @typedef {import("./sources.js").Source} Source */
/** @typedef {Pick<import("./sources.js").ReadOptions, "onProgress" | "signal">} Watching */

// Limits in bytes: the largest buffer that every browser has, and ten times the largest files of other sorts in use.
const LARGEST = 2 ** 31 - 1;
const LIMITS = new Map([
  [MANIFEST, 64 * 2 ** 20],
  ["tokenizer.json", 512 * 2 ** 20],
]);

/** The files of a bundle that its manifest lists, each compared with its sha256 when it is read. */
export class BundleFiles {
  #source;
  #digests;

  /**
   * @param {Source} source
   * @param {Record<string, string>} digests
   */
  constructor(source, digests) {
    this.#source = source;
    this.#digests = digests;
  }

  /** @param {string} path */
  has(path) {
    return Object.hasOwn(this.#digests, path);
  }

  /**
   * @param {string} path
   * @param {Watching} [watching]
   * @returns {Promise<Uint8Array>}
   * @throws {BundleError} The bundle has no such file, it cannot be read, or it has changed.
   */
  async read(path, watching = {}) {
    const digest = this.has(path) ? this.#digests[path] : undefined;
    if (digest === undefined) throw new BundleError(`${MANIFEST}: expected ${shown(path)} among the files, found none`);
    return readFile(this.#source, path, digest, watching);
  }

  /**
   * @param {string} path
   * @returns {Promise<unknown>}
   */
  async readJson(path) {
    return readJson(await this.read(path), path);
  }
}

/**
 * The bytes of a file.
 *
 * @param {Source} source
 * @param {string} path
 * @param {string | undefined} digest The sha256 that they must have; undefined for any.
 * @param {Watching} [watching]
 * @throws {BundleError} They have another sha256.
 */
export async function readFile(source, path, digest, watching = {}) {
  const bytes = await source(path, { limit: LIMITS.get(path) ?? LARGEST, ...watching });
  const found = digest === undefined ? digest : await sha256(bytes);
  if (found !== digest) throw new BundleError(`${path}: expected sha256 ${digest}, found ${found}: it has changed`);
  return bytes;
}
