export type Source = import("./sources.js").Source;
export type Watching = Pick<import("./sources.js").ReadOptions, "onProgress" | "signal">;
/** The files of a bundle that its manifest lists, each compared with its sha256 when it is read. */
export declare class BundleFiles {
    #private;
    /**
     * @param {Source} source
     * @param {Record<string, string>} digests
     */
    constructor(source: Source, digests: Record<string, string>);
    /** @param {string} path */
    has(path: string): boolean;
    /**
     * @param {string} path
     * @param {Watching} [watching]
     * @returns {Promise<Uint8Array>}
     * @throws {BundleError} The bundle has no such file, it cannot be read, or it has changed.
     */
    read(path: string, watching?: Watching): Promise<Uint8Array>;
    /**
     * @param {string} path
     * @returns {Promise<unknown>}
     */
    readJson(path: string): Promise<unknown>;
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
export declare function readFile(source: Source, path: string, digest: string | undefined, watching?: Watching): Promise<Uint8Array<ArrayBufferLike>>;
