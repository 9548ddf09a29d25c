import { BundleError } from "./errors.js";

/**
 * The sha256 of bytes, as hex digits. WebCrypto computes it, in browsers and in Node.
 *
 * @param {Uint8Array} bytes
 * @returns {Promise<string>}
 * @throws {BundleError} The page is neither served by https nor from localhost: browsers have no WebCrypto there.
 */
export async function sha256(bytes) {
  const { subtle } = globalThis.crypto ?? {};
  if (subtle === undefined)
    throw new BundleError("files cannot be checked: serve the page by https or from localhost, where WebCrypto works");
  const digest = await subtle.digest("SHA-256", /** @type {BufferSource} */ (bytes));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
