export type ReadOptions = {
    /**
     * The most bytes that the file may have.
     */
    limit: number;
    /**
     * Called as bytes arrive; total: undefined
     * where it is not known.
     */
    onProgress?: (loaded: number, total: number | undefined) => void;
    /**
     * Ends the reading.
     */
    signal?: AbortSignal;
};
export type Source = (path: string, options: ReadOptions) => Promise<Uint8Array>;
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
export declare function fetchSource(base: string | URL, fetcher?: typeof fetch): Source;
