/**
 * The sha256 of bytes, as hex digits. WebCrypto computes it, in browsers and in Node.
 *
 * @param {Uint8Array} bytes
 * @returns {Promise<string>}
 * @throws {BundleError} The page is neither served by https nor from localhost: browsers have no WebCrypto there.
 */
export declare function sha256(bytes: Uint8Array): Promise<string>;
