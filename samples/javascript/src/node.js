// For Node alone: bundles in folders.

import { open } from "node:fs/promises";
import { join } from "node:path";
import { BundleError } from "./errors.js";

/**
 * The files of a bundle in a folder.
 *
 * @param {string} folder
 * @returns {import("./sources.js").Source}
 */
export function folderSource(folder) {
  return async (path, { limit, onProgress, signal }) => {
    const file = await open(join(folder, path)).catch((error) => {
      throw new BundleError(`${path}: cannot be read from ${folder}: ${error.code}`, { cause: error });
    });
    try {
      const { size } = await file.stat();
      if (size > limit) throw new BundleError(`${path}: expected at most ${limit} bytes, found ${size}`);
      const bytes = new Uint8Array(await file.readFile({ signal }));
      onProgress?.(bytes.length, bytes.length);
      return bytes;
    } finally {
      await file.close();
    }
  };
}
