import { BundleError } from "./errors.js";

/**
 * @typedef {object} ReadOptions
 * @property {number} limit The most bytes that the file may have.
 * @property {(loaded: number, total: number | undefined) => void} [onProgress] Called as bytes arrive; total: undefined
 *   where it is not known.
 * @property {AbortSignal} [signal] Ends the reading.
 */
/**
 * Reads one file of a bundle, by its path in the bundle with forward slashes.
 *
 * @typedef {(path: string, options: ReadOptions) => Promise<Uint8Array>} Source
 */

/**
 * The files of a bundle on a server.
 *
 * @param {string | URL} base Address of the bundle's folder.
 * @param {typeof fetch} [fetcher] In place of the global `fetch`.
 * @returns {Source}
 */
export function fetchSource(base, fetcher = fetch) {
  const folder = new URL(String(base).replace(/\/*$/, "/"), globalThis.location?.href);
  return async (path, { limit, onProgress, signal }) => {
    const address = new URL(path.split("/").map(encodeURIComponent).join("/"), folder);
    const response = await fetcher(address, signal ? { signal } : {});
    if (!response.ok) throw new BundleError(`${path}: ${address} answers ${response.status}`);
    // With a content encoding, the header counts other bytes than those that arrive here.
    const stated = response.headers.get("content-encoding") ? null : response.headers.get("content-length");
    const total = stated === null ? undefined : Number(stated);
    if (response.body === null) return new Uint8Array();
    const chunks = [];
    let loaded = 0;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      loaded += value.length;
      if (loaded > limit) {
        await reader.cancel();
        throw new BundleError(`${path}: expected at most ${limit} bytes, found more`);
      }
      chunks.push(value);
      onProgress?.(loaded, total);
    }
    const bytes = new Uint8Array(loaded);
    let at = 0;
    for (const chunk of chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    return bytes;
  };
}
